"""Records, cuts and what a step gives back: the values that cross the border of the fold.

A cut bounds commits, not learning: for every owned partition an offset range [from, to) and the records
in it. Nothing else enters a step, so the same cuts give the same state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

Headers = tuple[tuple[str, bytes | None], ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One record as it stands in the log. For a file: topic `file`, partition 0, offset = running line."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None = None  # of Kafka; None in a file, whose event times are not bounded
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Range:
    """What a cut read of one partition: offsets [start, stop), how many records, and their hash.

    `stop - start` is not a record count: transaction markers and compaction leave holes.
    """

    topic: str
    partition: int
    start: int
    stop: int
    records: int
    digest: str


@dataclass(frozen=True, slots=True)
class RollbackTarget:
    """The checkpoint that a rollback goes back to: found on disk by the worker, later read from the ledger."""

    name: str
    cut: int
    state_digest: str
    afresh: tuple[str, ...] = ()  # tasks that it does not know: their own parts begin anew
    refusal: str = ""  # why there is none


@dataclass(frozen=True, slots=True)
class Cut:
    """One micro-batch of the log. `ranges` has every owned partition, idle ones with start == stop."""

    number: int
    records: Sequence[Record]
    ranges: tuple[Range, ...]
    published_at: (
        int | None
    )  # wall clock in ms, frozen with the cut; None in a backtest (event time then)
    targets: Mapping[str, RollbackTarget] = field(
        default_factory=lambda: MappingProxyType({})
    )  # by command id: a fold cannot see the disk


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that cannot be used, with a reason from the closed list `schemas.scores.Reason`."""

    record: Record
    reason: str
    stage: str  # serde, join, learner
    message: str = ""  # never record content


@dataclass(frozen=True, slots=True)
class Output:
    """One record of the score topic; `value` None is a tombstone. `event_time` serves backtests."""

    key: str
    value: bytes | None
    event_time: int


@dataclass(frozen=True, slots=True)
class DriftAlarm:
    """A task's quality has changed. A report: nothing in the fold acts on it by itself."""

    task: str
    signal: str  # `entropy`: predictions got worse; `calibration`: they miss the labels on average
    rose: bool  # of calibration: labels became more frequent than was said, else rarer


@dataclass(frozen=True, slots=True)
class CutResult:
    """All that a step of the fold wants to be known outside; published only by a sink."""

    number: int
    outputs: tuple[Output, ...]
    rejects: tuple[Reject, ...]
    counts: dict[
        str, int
    ]  # of this cut: events, rejected, duplicates, steps, example_rows, scored_rows
    outputs_digest: str
    digest: str  # chained over the lineage: touched rows, outputs, small state
    event_time: int  # of the newest event in the cut, 0 when it had none
    decisions: tuple[dict[str, object], ...] = field(default=())
    drifts: tuple[DriftAlarm, ...] = ()  # not part of the digest


def records_digest(records: Iterable[Record]) -> str:
    """Hash of offset, key and value of the records of one partition, in offset order (hex, 128 bit)."""
    h = hashlib.blake2b(digest_size=16)
    for r in records:
        for part in (b"%d" % r.offset, r.key, r.value):
            h.update(b"-1" if part is None else b"%d:" % len(part))
            h.update(part or b"")
    return h.hexdigest()


def digest_outputs(outputs: Sequence[Output]) -> str:
    """Hash of keys and values in order of production (hex): what a reader must find for this cut."""
    h = hashlib.blake2b(digest_size=16)
    for output in outputs:
        value = output.value
        h.update(f"{output.key}\0{-1 if value is None else len(value)}\0".encode())
        h.update(value or b"")
    return h.hexdigest()
