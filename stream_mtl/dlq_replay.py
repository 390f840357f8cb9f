"""From a dead letter back to the record that it was: what may be sent once more, and with which headers.

Ours are the last headers of a letter, in a fixed order, and only those are taken off: a record may itself
have been somebody's dead letter. The counter of replays is left on the record when it fails again, so it
is among the original headers of the next letter.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from schemas.scores import (
    CUT_HEADER,
    REPLAYED_HEADER,
    REPLAYS_HEADER,
    WHOLE_BYTES_HEADER,
    ConnectHeader,
    Reason,
    StreamsHeader,
)
from stream_mtl.cut import Headers, Record

_STYLES = (
    (tuple(ConnectHeader), ConnectHeader.EXCEPTION, tuple(ConnectHeader)[:3]),
    (tuple(StreamsHeader), StreamsHeader.EXCEPTION, tuple(StreamsHeader)[3:]),
)
Place = tuple[int, int]  # partition and offset in the dead-letter topic


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, understood. `original` has the coordinates, time and headers that it had."""

    place: Place
    reason: str
    original: Record
    replays: int  # how often it was sent again before
    whole_bytes: int | None  # of a record cut short; None: it is whole


def read_letter(record: Record) -> Letter | None:
    """None for a record that is no dead letter of ours."""
    headers, whole_bytes = record.headers, None
    if not headers or headers[-1][0] != CUT_HEADER:
        return None
    headers = headers[:-1]
    if headers and headers[-1][0] == WHOLE_BYTES_HEADER:
        whole_bytes, headers = _number(headers[-1][1]), headers[:-1]
    for names, why, where in _STYLES:
        own = headers[-len(names) :]
        if tuple(name for name, _ in own) != names:
            continue
        said = {name: (value or b"").decode(errors="replace") for name, value in own}
        partition, offset = (_number(said[name].encode()) for name in where[1:])
        before, replays = _counted(headers[: -len(names)])
        original = replace(
            record, topic=said[where[0]], partition=partition, offset=offset, headers=before
        )
        place = record.partition, record.offset
        return Letter(place, said[why], original, replays, whole_bytes)
    return None


def refusal(
    letter: Letter, topics: Collection[str], most_replays: int, crash_named: bool
) -> str | None:
    """Why this letter is not sent again, in a word; None when it may be."""
    if not letter.original.topic:
        return "example"  # a row of the learner: nothing to send
    if letter.original.topic not in topics or letter.original.partition < 0:
        return "foreign_topic"  # whoever may write letters may not choose where we write
    if letter.replays >= most_replays:
        return "max_replays"
    if letter.reason == Reason.CRASH and not crash_named:
        return "crash"
    return None


def is_the_whole(letter: Letter, found: Record) -> bool:
    """Is this, at the coordinates of a letter cut short, the record that it was cut from?"""
    value, key = found.value or b"", found.key or b""
    kept_value, kept_key = letter.original.value or b"", letter.original.key or b""
    return (
        len(value) == letter.whole_bytes
        and value.startswith(kept_value)
        and key.startswith(kept_key)
    )


def counted_headers(original: Headers, replays: int) -> Headers:
    """Headers of a record that is sent for the `replays`-th time."""
    return (*original, (REPLAYS_HEADER, b"%d" % replays))


def receipt(place: Place) -> Headers:
    """Headers of the receipt for a letter."""
    return ((REPLAYED_HEADER, b"%d:%d" % place),)


def receipt_of(record: Record) -> Place | None:
    """The letter that this record says was replayed; None for a record that is no receipt."""
    if len(record.headers) != 1 or record.headers[0][0] != REPLAYED_HEADER:
        return None
    partition, _, offset = (record.headers[0][1] or b"").partition(b":")
    return _number(partition), _number(offset)


def without_counter(headers: Headers) -> Headers:
    """Headers as the producer wrote them."""
    return _counted(headers)[0]


def _counted(headers: Headers) -> tuple[Headers, int]:
    """Headers without the counter, and the counter."""
    counts = [_number(value) for name, value in headers if name == REPLAYS_HEADER]
    others = tuple(header for header in headers if header[0] != REPLAYS_HEADER)
    return others, max(0, *counts) if counts else 0


def _number(raw: bytes | None) -> int:
    """-1 for what is no number."""
    return int(raw) if raw is not None and raw.isdigit() and len(raw) < 19 else -1
