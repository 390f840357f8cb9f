"""Bytes -> wire models -> canonical events, and score records -> bytes.

A bad record is a `Reject` value with a reason from a closed list, never an exception. Whether it is bad
is a pure function of record and config, so that a roll-forward refuses the same ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, to_json

from schemas.control import AnyCommand
from schemas.events import AnyInput, Item
from schemas.scores import Reason
from stream_mtl.canonical import CANONICAL, canonical_command, normalise_query, withdrawn
from stream_mtl.config import Source, Topics
from stream_mtl.cut import Coordinates, Output, Record, Reject
from stream_mtl.events import AnyEvent, Command
from stream_mtl.events import Item as CatalogueItem

__all__ = [
    "FILE_TOPIC",
    "AnyWire",
    "Decoded",
    "decode",
    "decode_all",
    "encode_scores",
    "normalise_query",
    "parse",
    "score_line",
]

FILE_TOPIC = "file"  # the one topic where events, items and commands may be mixed
AnyWire = AnyInput | AnyCommand
_VALIDATE = TypeAdapter[AnyWire](
    Annotated[AnyWire, Field(discriminator="type")]
).validator.validate_json

_ID_RULE = "expected a string of 1 to 512 characters"
_TIME_RULE = "expected integer epoch milliseconds or an RFC 3339 time with offset"
_RANGE_ERRORS = {"greater_than_equal", "less_than_equal", "time_out_of_range"}


@dataclass(frozen=True, slots=True)
class Decoded:
    """`events` by (time, topic, partition, offset); `commands` and `rejects` in the order of the log.

    `partition_times`: newest event time in ms of each partition that had events of users; catalogue
    records are left out, since their times say nothing of how far the users have come.
    """

    events: list[AnyEvent]
    commands: list[Command]
    rejects: list[Reject]
    partition_times: dict[tuple[str, int], int]


def decode_all(
    records: Iterable[Record],
    source: Source,
    topics: Topics,
    quarantined: Collection[Coordinates] = (),
) -> Decoded:
    """Decode a cut. The order of the result does not depend on how the records were interleaved.

    Not a byte of a quarantined record is looked at.
    """
    events: list[tuple[int, str, int, int, AnyEvent]] = []
    commands: list[tuple[str, int, int, Command]] = []
    rejects: list[Reject] = []
    for record in records:
        out = _unread(record, quarantined) or decode(record, source, topics)
        if isinstance(out, Reject):
            rejects.append(out)
        elif isinstance(out, Command):
            commands.append((record.topic, record.partition, record.offset, out))
        else:
            events.append((out.time_ms, record.topic, record.partition, record.offset, out))
    events.sort(key=itemgetter(0, 1, 2, 3))
    commands.sort(key=itemgetter(0, 1, 2))
    rejects.sort(key=lambda r: (r.record.topic, r.record.partition, r.record.offset))
    newest = {(e[1], e[2]): e[0] for e in events if type(e[4]) is not CatalogueItem}
    return Decoded([e[4] for e in events], [c[3] for c in commands], rejects, newest)


def _unread(record: Record, quarantined: Collection[Coordinates]) -> Reject | None:
    if not quarantined or (record.topic, record.partition, record.offset) not in quarantined:
        return None
    return Reject(record, Reason.CRASH.value, "worker", "the worker died of it several times")


def decode(record: Record, source: Source, topics: Topics) -> AnyEvent | Command | Reject:
    """One record; never raises for what is in it."""
    if record.value is None:
        return _decode_null(record, topics)
    wire = parse(record, record.value, source)
    if isinstance(wire, Reject):
        return wire
    canonical = CANONICAL.get(type(wire))  # type: ignore[arg-type]  # a command's class is not in it
    if record.topic != FILE_TOPIC:
        home = _home(wire, canonical is None, topics)
        if record.topic not in home:
            return _reject(record, Reason.WRONG_TOPIC, f"such a record belongs on {home[0]}")
    if canonical is None:
        return canonical_command(wire)  # type: ignore[arg-type]
    event = canonical(wire)
    stamp = record.timestamp_ms
    if stamp is not None and not -source.past_ms <= event.time_ms - stamp <= source.ahead_ms:
        return _reject(record, Reason.TIME_OUT_OF_RANGE, _distance(event.time_ms - stamp, source))
    return event


def parse(record: Record, value: bytes, source: Source) -> AnyWire | Reject:
    """The wire model of a value, or why there is none."""
    if len(value) > source.max_record_bytes:
        message = f"{len(value)} bytes, source.max_record_bytes is {source.max_record_bytes}"
        return _reject(record, Reason.TOO_LARGE, message)
    try:
        return _VALIDATE(value)  # type: ignore[no-any-return]
    except ValidationError as failure:
        return _reject(record, *_classify(failure, value))


def _home(wire: AnyWire, is_command: bool, topics: Topics) -> tuple[str, ...]:
    """Topics where such a record may stand. Items elsewhere would be seen by one rank only."""
    if is_command:
        return (topics.control,)
    return (topics.items,) if type(wire) is Item else topics.events


def _decode_null(record: Record, topics: Topics) -> AnyEvent | Reject:
    if record.topic != topics.items:
        return _reject(record, Reason.NULL_VALUE, "only the items topic gives a meaning to null")
    if not record.key:
        return _reject(record, Reason.NULL_VALUE, "withdraws an item but has no key to name it")
    try:
        item_id = record.key.decode()
    except UnicodeDecodeError:
        return _reject(record, Reason.NOT_UTF8, "key is not UTF-8")
    if len(item_id) > 512:
        return _reject(record, Reason.FIELD_INVALID, f"key: {_ID_RULE}")
    return withdrawn(item_id, record.timestamp_ms or 0)


def _reject(record: Record, reason: Reason, message: str) -> Reject:
    return Reject(record=record, reason=reason.value, stage="serde", message=message)


def _distance(ms: int, source: Source) -> str:
    side = "after" if ms > 0 else "before"
    allowed = source.ahead_ms if ms > 0 else source.past_ms
    return f"event_time: {abs(ms)} ms {side} the record's timestamp, allowed are {allowed}"


def _classify(failure: ValidationError, value: bytes) -> tuple[Reason, str]:
    """The reason of the first error; a non-finite number anywhere outranks it."""
    errors = failure.errors(include_url=False, include_input=False, include_context=False)
    first = next((e for e in errors if e["type"] == "finite_number"), errors[0])
    kind, path = first["type"], _path(first)
    if kind == "json_invalid":
        return _not_json(value)
    if kind == "union_tag_not_found":
        return Reason.FIELD_MISSING, "type: field required"
    if kind == "union_tag_invalid":
        return Reason.TYPE_UNKNOWN, "type: not a type of this contract"
    if kind == "dict_type" and not path:
        return Reason.FIELD_INVALID, "expected one JSON object a record"
    if kind == "finite_number":
        return Reason.NONFINITE, f"{path}: expected a finite number"
    if kind == "missing":
        return Reason.FIELD_MISSING, f"{path}: field required"
    if path == "schema_version":
        return Reason.SCHEMA_UNKNOWN, "schema_version: this release reads version 1"
    if path in ("event_time", "issued_at"):
        outside = any(_path(e) == path and e["type"] in _RANGE_ERRORS for e in errors)
        return (Reason.TIME_OUT_OF_RANGE if outside else Reason.FIELD_INVALID), (
            f"{path}: {_TIME_RULE}, in 1970 to 9999"
        )
    rule = _ID_RULE if path.endswith("_id") else first["msg"]
    return Reason.FIELD_INVALID, f"{path}: {rule}"


def _not_json(value: bytes) -> tuple[Reason, str]:
    if value[:1] in (b"\x00", b"\x01"):
        return Reason.MAGIC_BYTE, "Confluent wire format, but this topic is read as plain JSON"
    try:
        value.decode()
    except UnicodeDecodeError as failure:
        return Reason.NOT_UTF8, f"not UTF-8 at byte {failure.start}"
    return Reason.NOT_JSON, "not one JSON object"


def _path(error: ErrorDetails) -> str:
    """`items.0.item_id`: names of fields and indices only. A key of a map is record content."""
    parts: list[str] = []
    for part in error["loc"][1:]:
        if isinstance(part, str) and part not in _FIELD_NAMES:
            break
        parts.append(str(part))
        if part in _MAPS:
            break
    return ".".join(parts)


_FIELD_NAMES = frozenset(
    name for model in (*CANONICAL, *AnyCommand.__args__) for name in model.model_fields
) | {"item_id", "position", "propensity", "campaign_id", "bid"}
_MAPS = frozenset({"context", "attributes", "vectors"})


def encode_scores(
    kind: str,
    name: str,
    event_time: int,
    published_at: int,
    model: Mapping[str, str | int],
    lists: Mapping[str, Sequence[Mapping[str, Any]]],
    user_scores: Mapping[str, float | Mapping[str, float]] | None = None,
    variant: str = "",
) -> tuple[str, bytes]:
    """Key and value of a score record (schemas.scores) of plain Python values; nothing is validated.

    `kind`: user, query or popular; `name`: the user id, the normalised query or the domain. The bytes
    are a function of the arguments and the order of their dicts.
    """
    record: dict[str, Any] = {
        "schema_version": 1,
        "kind": kind,
        _NAMED[kind]: name,
        "event_time": event_time,
        "published_at": published_at,
        "model": model,
        "lists": lists,
        "user_scores": user_scores or {},
    }
    if variant:
        record["variant"] = variant
    return f"{kind}:{name}", to_json(record)


_NAMED = {"user": "user_id", "query": "query", "popular": "domain"}


def score_line(output: Output) -> bytes:
    """How a file of scores writes an output: the value with its key, or a tombstone (no newline)."""
    if output.value is None:
        tombstone = {"key": output.key, "kind": "tombstone", "event_time": output.event_time}
        return to_json(tombstone)
    return b'{"key":' + to_json(output.key) + b"," + output.value[1:]
