"""Is what the ledger promises true? Folds its cuts again and compares with what a reader found.

The audit reads a log and a score topic only; it knows nothing of the worker that wrote them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol

from schemas.scores import LedgerRecord
from stream_mtl.cut import CutResult, Output
from stream_mtl.ledger import Entry, links

Found = tuple[str, str]  # key, hash of the value


class Rebuild(Protocol):
    """Folds the ledger's cuts again, from an empty state or a checkpoint."""

    def step(self, record: LedgerRecord) -> CutResult | None:
        """The result of the cut; None where it cannot be had: inputs gone, or before the start."""
        ...

    def state_digest(self) -> str: ...


@dataclass(slots=True)
class Published:
    """What a `read_committed` reader found on the score topic.

    Lists are counted by the cut they name; a tombstone has no content, so it is counted by its key.
    """

    lists: dict[int, Counter[Found]] = field(default_factory=dict)
    tombstones: Counter[str] = field(default_factory=Counter)

    def add(self, key: str, value: bytes | None, cut: int | None) -> None:
        """One record of the topic; `cut` is its `model.cut`, None for a tombstone."""
        if value is None or cut is None:
            self.tombstones[key] += 1
        else:
            self.lists.setdefault(cut, Counter())[key, _digest(value)] += 1


@dataclass(frozen=True, slots=True)
class Report:
    """What `ledger verify` prints."""

    cuts: int
    gaps: int
    overlaps: int
    digest_equal: bool
    scores_missing: int
    scores_doubled: int
    cuts_unverifiable: int
    faults: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        wrong = self.gaps + self.overlaps + self.scores_missing + self.scores_doubled
        return self.digest_equal and not wrong

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "faults": list(self.faults)}


def verify(
    entries: Iterable[Entry],
    rebuild: Rebuild,
    published: Published,
    horizon: int = -1,
    repeats_allowed: bool = False,
) -> Report:
    """Audit a ledger. Scores are compared above cut `horizon` only: compaction removes older ones.

    `repeats_allowed`: at_least_once, where the last cut before a crash may be there again, the same
    byte for byte; elsewhere a second copy is a fault.
    """
    kept, chain = links(entries)
    comparison = _Comparison(published, horizon, repeats_allowed)
    expected_states = {
        e.record.checkpoint.cut: e.record.state_digest
        for e in kept
        if e.record.checkpoint and e.record.state_digest
    }
    for entry in kept:
        if entry.record.kind == "cut":
            comparison.cut(entry, rebuild, expected_states)
    comparison.close({entry.cut for entry in kept if entry.record.kind == "cut"})
    return Report(
        cuts=chain.cuts,
        gaps=chain.gaps,
        overlaps=chain.overlaps + (0 if repeats_allowed else chain.repeats),
        digest_equal=comparison.digest_equal,
        scores_missing=comparison.missing,
        scores_doubled=comparison.doubled,
        cuts_unverifiable=comparison.unverifiable,
        faults=tuple([*chain.faults, *comparison.faults][:20]),
    )


class _Comparison:
    """The running sums of one audit."""

    def __init__(self, published: Published, horizon: int, repeats_allowed: bool) -> None:
        self._published, self._horizon = published, horizon
        self._repeats_allowed = repeats_allowed
        self._tombstones_due: Counter[str] = Counter()
        self._every_tombstone_known = horizon < 0
        self.digest_equal = True
        self.missing = self.doubled = self.unverifiable = 0
        self.faults: list[str] = []

    def cut(self, entry: Entry, rebuild: Rebuild, expected_states: Mapping[int, str]) -> None:
        result = rebuild.step(entry.record)
        if result is None:
            self.unverifiable += 1
            self._every_tombstone_known = False
            self._compare_count(entry)
            return
        if result.digest != entry.record.digest:
            self._differs(f"cut {entry.cut}: digest differs from the ledger's")
        expected = expected_states.get(entry.cut)
        if expected is not None and rebuild.state_digest() != expected:
            self._differs(f"cut {entry.cut}: state digest differs from the checkpoint's")
        if entry.cut > self._horizon:
            self._compare(entry.cut, result.outputs)

    def close(self, cuts: set[int]) -> None:
        """What no cut of the ledger accounts for: orphans are scores without their ledger record."""
        first = min(cuts, default=0)
        for cut, found in self._published.lists.items():
            if cut > self._horizon and cut >= first and cut not in cuts:
                self.doubled += found.total()
                self.faults.append(f"{found.total()} scores name cut {cut}, which is not committed")
        for key, due in self._tombstones_due.items():
            self.missing += max(0, due - self._published.tombstones[key])
        if self._every_tombstone_known and not self._repeats_allowed:
            for key, found_times in self._published.tombstones.items():
                self.doubled += max(0, found_times - self._tombstones_due[key])

    def _compare(self, cut: int, outputs: tuple[Output, ...]) -> None:
        due: Counter[Found] = Counter()
        for output in outputs:
            if output.value is None:
                self._tombstones_due[output.key] += 1
            else:
                due[output.key, _digest(output.value)] += 1
        found = self._published.lists.get(cut, Counter())
        missing = (due - found).total()
        further = found - due
        if self._repeats_allowed:  # a second whole copy is allowed, other content is not
            further = Counter({record: n for record, n in further.items() if record not in due})
        self._count(cut, missing, further.total())

    def _compare_count(self, entry: Entry) -> None:
        """Without a rebuild the ledger's count is all there is to compare with."""
        if entry.cut <= self._horizon:
            return
        counts = entry.record.counts
        due = counts.get("outputs", 0) - counts.get("tombstones", 0)
        found = self._published.lists.get(entry.cut, Counter())
        distinct = len(found) if self._repeats_allowed else found.total()
        self._count(entry.cut, max(0, due - distinct), max(0, distinct - due))

    def _count(self, cut: int, missing: int, doubled: int) -> None:
        self.missing += missing
        self.doubled += doubled
        if missing or doubled:
            self.faults.append(f"cut {cut}: {missing} scores missing, {doubled} too many")

    def _differs(self, message: str) -> None:
        self.digest_equal = False
        self.faults.append(message)


def _digest(value: bytes) -> str:
    return hashlib.blake2b(value, digest_size=16).hexdigest()
