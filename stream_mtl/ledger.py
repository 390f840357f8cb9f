"""The ledger: one record a cut, written with its outputs in one transaction. Free of Kafka.

A record says what was read (ranges), what came out (counts and digests), where the job stands
(positions) and which state is durable. Each holds the hash of the one before it, so that a missing, a
repeated and a foreign record show. The cuts, folded again in order, give the same state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from pydantic import ValidationError

from schemas.scores import CheckpointRef, LedgerRange, LedgerRecord, TopicIdentity
from stream_mtl.cut import Coordinates, Cut, CutResult, Range, Record
from stream_mtl.errors import ForeignState
from stream_mtl.rollback import targets_of

# Raised by every change of how state evolves, and of a default that folds read; harmless edits keep it. Ledgers of
# another version are not rolled forward with digests compared.
FOLD_VERSION = 9

QUARANTINE = "quarantine"  # the kind of decision that names records to be refused unread

Partition = tuple[str, int]
Positions = dict[Partition, int]  # the first offset not yet folded in


@dataclass(frozen=True, slots=True)
class Context:
    """What is the same in every record of one run of a worker."""

    app: str
    lineage: str
    instance: str
    topic_ids: Mapping[str, TopicIdentity]
    config_hash: str
    code: str
    environment: Mapping[str, str]
    fold_version: int = FOLD_VERSION


@dataclass(frozen=True, slots=True)
class Durable:
    """The newest durable checkpoint, and the digest of the state in it."""

    name: str
    cut: int
    state_digest: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A record as it lies in the log: its offset there, its bytes, and what they say."""

    offset: int
    raw: bytes
    record: LedgerRecord
    hash: str

    @property
    def cut(self) -> int:
        return self.record.cut

    @property
    def positions(self) -> Positions:
        return {
            (topic, int(partition)): offset
            for topic, partitions in self.record.positions.items()
            for partition, offset in partitions.items()
        }


def hash_of(raw: bytes) -> str:
    """Of the bytes of one ledger record: what the next one names as `previous`."""
    return hashlib.sha256(raw).hexdigest()


def decode(raw: bytes | None, offset: int) -> Entry:
    """An entry of the log; ForeignState when we cannot have written it."""
    try:
        record = LedgerRecord.model_validate_json(raw or b"")
    except ValidationError as error:
        raise ForeignState(
            f"ledger offset {offset} holds no ledger record of version 1; only the worker may write to "
            "the ledger topic, or it is of a newer release"
        ) from error
    return Entry(offset, raw or b"", record, hash_of(raw or b""))


def encode_cut(
    context: Context, previous: str, cut: Cut, result: CutResult, durable: Durable | None = None
) -> bytes:
    """The record of `cut`; the same arguments give the same bytes, so a cut may be sent again.

    `previous` is the hash of the record before it, "" for the first of a ledger. `durable` is named
    with its state digest, so that an audit can compare the whole state at that cut.
    """
    tombstones = sum(output.value is None for output in result.outputs)
    record = _record(
        context,
        previous,
        kind="cut",
        cut=cut.number,
        ranges=[_wire(r) for r in cut.ranges],
        positions=_nested({(r.topic, r.partition): r.stop for r in cut.ranges}),
        published_at=result.event_time if cut.published_at is None else cut.published_at,
        event_time=result.event_time,
        counts={
            **result.counts,
            "outputs": len(result.outputs),
            "tombstones": tombstones,
            "dead_letters": len(result.rejects),
        },
        outputs_digest=result.outputs_digest,
        digest=result.digest,
        state_digest=durable.state_digest if durable else None,
        checkpoint=CheckpointRef(name=durable.name, cut=durable.cut) if durable else None,
        decisions=[*_quarantine(cut), *result.decisions],
    )
    return record.model_dump_json(exclude_none=True).encode()


def encode_lineage(
    context: Context,
    before: Entry,
    positions: Positions,
    published_at: int,
    reason: str,
    facts: Mapping[str, object] = MappingProxyType({}),
) -> bytes:
    """The record that begins a lineage after `before`: it reads nothing and keeps the cut number.

    `facts`: what else a roll-forward must know, beside the reason.
    """
    record = _record(
        context,
        before.hash,
        kind="lineage",
        cut=before.cut,
        ranges=[],
        positions=_nested(positions),
        published_at=published_at,
        event_time=before.record.event_time,
        counts={},
        outputs_digest="",
        digest="",
        decisions=[{**facts, "kind": "new_lineage", "reason": reason}],
    )
    return record.model_dump_json(exclude_none=True).encode()


def _record(context: Context, previous: str, **fields: object) -> LedgerRecord:
    return LedgerRecord.model_validate(
        {
            "app": context.app,
            "lineage": context.lineage,
            "previous": previous,
            "instance": context.instance,
            "topic_ids": dict(context.topic_ids),
            "fold_version": context.fold_version,
            "config_hash": context.config_hash,
            "code": context.code,
            "environment": dict(context.environment),
            **fields,
        }
    )


def _wire(r: Range) -> LedgerRange:
    return LedgerRange(
        topic=r.topic,
        partition=r.partition,
        start=r.start,
        stop=r.stop,
        records=r.records,
        digest=r.digest,
    )


def ranges_of(record: LedgerRecord) -> tuple[Range, ...]:
    """What the cut read, to be read again."""
    return tuple(
        Range(r.topic, r.partition, r.start, r.stop, r.records, r.digest) for r in record.ranges
    )


def cut_of(record: LedgerRecord, records: Sequence[Record]) -> Cut:
    """The recorded cut, to be folded again as it was; `records` are what its ranges hold."""
    return Cut(
        record.cut,
        records,
        ranges_of(record),
        record.published_at,
        targets_of(record.decisions),
        quarantined_in(record),
    )


def quarantined_in(record: LedgerRecord) -> frozenset[Coordinates]:
    """Records that this cut refused unread."""
    return frozenset(
        (str(topic), int(partition), int(offset))
        for decision in record.decisions
        if decision["kind"] == QUARANTINE
        for topic, partition, offset in decision["records"]
    )


def _quarantine(cut: Cut) -> list[dict[str, object]]:
    """Not decided by the fold, but what it must obey."""
    if not cut.quarantined:
        return []
    return [{"kind": QUARANTINE, "records": [list(one) for one in sorted(cut.quarantined)]}]


def _nested(positions: Mapping[Partition, int]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {}
    for (topic, partition), offset in sorted(positions.items()):
        nested.setdefault(topic, {})[str(partition)] = offset
    return nested


@dataclass(slots=True)
class Chain:
    """Walks a ledger in the order of its log and counts what does not fit.

    gaps: offsets or cut numbers that no cut covers, and records that do not name the one before them.
    overlaps: offsets or cut numbers in more than one cut. repeats: the very same bytes again, which
    `at_least_once` may leave after a lost answer; they are no cut of their own.
    broken: those gaps that are no skipped records but a missing or foreign ledger record.
    The first record anchors the chain: older ones may have expired.
    """

    cuts: int = 0
    gaps: int = 0
    overlaps: int = 0
    repeats: int = 0
    broken: int = 0
    faults: list[str] = field(default_factory=list)  # the first few, in words
    last: Entry | None = None
    _positions: Positions = field(default_factory=dict)

    def feed(self, entry: Entry) -> bool:
        """True when the entry is the next link; False when it repeats the last one."""
        if self.last is not None and entry.hash == self.last.hash:
            self.repeats += 1
            return False
        self._check_link(entry)
        if entry.record.kind == "cut":
            self.cuts += 1
            self._check_ranges(entry)
            self._positions.update(entry.positions)
        else:
            self._positions = entry.positions  # a lineage may begin elsewhere: topics recreated
        self.last = entry
        return True

    def _check_link(self, entry: Entry) -> None:
        if self.last is None:
            if entry.record.previous == "" and entry.cut != 0:
                self._break(f"the first record has no predecessor and is of cut {entry.cut}, not 0")
            return
        expected = self.last.cut + (entry.record.kind == "cut")
        if entry.cut > expected:
            self._break(f"cuts {expected} to {entry.cut - 1} are missing")
        elif entry.cut < expected:
            self._overlap(f"cut {entry.cut} follows cut {self.last.cut}")
        elif entry.record.previous != self.last.hash:
            self._break(f"cut {entry.cut} does not name the record before it as its predecessor")

    def _check_ranges(self, entry: Entry) -> None:
        for r in entry.record.ranges:
            expected = self._positions.get((r.topic, r.partition))
            where = f"cut {entry.cut}: {r.topic}[{r.partition}]"
            if r.stop < r.start:
                self._overlap(f"{where} ends at {r.stop} before its start {r.start}")
            if expected is None or r.start == expected:
                continue
            if r.start > expected:
                self._gap(f"{where} starts at {r.start}, {expected} was due")
            else:
                self._overlap(f"{where} starts at {r.start}, already read to {expected}")

    def _break(self, message: str) -> None:
        self.broken += 1
        self._gap(message)

    def _gap(self, message: str) -> None:
        self.gaps += 1
        self._note(message)

    def _overlap(self, message: str) -> None:
        self.overlaps += 1
        self._note(message)

    def _note(self, message: str) -> None:
        if len(self.faults) < 20:
            self.faults.append(message)


def links(entries: Iterable[Entry]) -> tuple[list[Entry], Chain]:
    """The entries without repeats, and the chain that has walked them."""
    chain = Chain()
    kept = [entry for entry in entries if chain.feed(entry)]
    return kept, chain
