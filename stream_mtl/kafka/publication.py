"""What one commit carries, and how it looks on the wire: the same bytes however often it is sent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import TopicPartition

from schemas.scores import CUT_HEADER
from stream_mtl.config import Config
from stream_mtl.cut import Cut, Headers, Output
from stream_mtl.deadletters import DeadLetter
from stream_mtl.kafka.ownership import Place

_NOTE = "stream-mtl/1 cut={cut} by={incarnation}"
_CLAIM = " id={instance} at={at_ms}"  # who holds the job, and when it said so (its own clock)
_NOTE_LIMIT = 120  # bytes; brokers allow 4096, the client cuts at NUL
_NOTED_CUT = re.compile(r"^stream-mtl/1 cut=(\d+) ")
_NOTED_BY = re.compile(r"^stream-mtl/1 cut=\S+ by=(\S*)")
_CLAIMED = re.compile(r"^stream-mtl/1 .* id=([a-z0-9]+) at=(\d+)$")


@dataclass(frozen=True, slots=True)
class Publication:
    """Everything that becomes visible with a cut. `positions` is of all owned partitions, idle ones too."""

    cut: Cut
    outputs: Sequence[Output]
    dead_letters: Sequence[DeadLetter]
    ledger: bytes
    positions: Mapping[Place, int]
    acks: Sequence[Output] = ()


@dataclass(frozen=True, slots=True)
class Committed:
    """A confirmed commit. `seconds` from the call to the confirmation, `open_seconds` of the last transaction."""

    number: int
    ledger_offset: int
    seconds: float
    open_seconds: float
    aborted: int = 0
    indefinite: int = 0
    recreations: tuple[str, ...] = ()  # why producers were replaced: aborted, unplaced, ...


@dataclass(frozen=True, slots=True)
class Wire:
    """One record to produce; `timestamp_ms` 0 lets the producer take its clock."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int = 0


def published(publication: Publication, config: Config) -> Iterator[Wire]:
    """Outputs, then dead letters, then acknowledgements, in their order."""
    headers: Headers = ((CUT_HEADER, b"%d" % publication.cut.number),)
    for output in publication.outputs:
        yield Wire(config.topics.scores, output.key.encode(), output.value, headers)
    for letter in publication.dead_letters:
        stamp = letter.timestamp_ms or 0
        yield Wire(config.topics.dlq, letter.key, letter.value, letter.headers, stamp)
    for ack in publication.acks:
        yield Wire(config.topics.acks, ack.key.encode(), ack.value, headers)


def ledger_wire(publication: Publication, config: Config) -> Wire:
    """The one ledger record of the cut."""
    return Wire(config.topics.ledger, None, publication.ledger, ())


@dataclass(frozen=True, slots=True)
class Claim:
    """That an instance holds the job, and when it said so, in ms of its clock."""

    instance: str
    at_ms: int


def offsets(
    positions: Mapping[Place, int], cut_number: int, incarnation: str, claim: Claim | None = None
) -> list[TopicPartition]:
    """Positions as offset commits, each with a note: printable ASCII, at most 120 bytes."""
    note = _NOTE.format(cut=cut_number, incarnation=incarnation)
    if claim is not None:
        note += _CLAIM.format(instance=claim.instance, at_ms=claim.at_ms)
    clean = "".join(letter for letter in note if " " <= letter <= "~")[:_NOTE_LIMIT]
    return [TopicPartition(*place, at, clean) for place, at in positions.items()]


def noted_cut(note: str) -> int | None:
    """The cut number in an offset's note; None when somebody else committed it."""
    found = _NOTED_CUT.match(note)
    return int(found.group(1)) if found else None


def noted_incarnation(note: str) -> str | None:
    """Which run of a worker committed an offset; None when somebody else committed it."""
    found = _NOTED_BY.match(note)
    return found.group(1) if found else None


def noted_claim(note: str) -> Claim | None:
    """The claim in an offset's note; None where there is none."""
    found = _CLAIMED.match(note)
    return Claim(found.group(1), int(found.group(2))) if found else None
