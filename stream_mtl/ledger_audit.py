"""Is what the ledger promises true? Folds its cuts again and compares with what a reader found.

The audit reads a log and a score topic only; it knows nothing of the worker that wrote them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
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
    """What a `read_committed` reader found on the score topic, counted by the cut each record names."""

    by_cut: dict[int, Counter[Found]] = field(default_factory=dict)

    def add(self, key: str, value: bytes | None, cut: int) -> None:
        """One record of the topic, in its header the cut; -1 when it names none."""
        self.by_cut.setdefault(cut, Counter())[key, _digest(value)] += 1


@dataclass(frozen=True, slots=True)
class Report:
    """What `ledger verify` prints."""

    cuts: int
    gaps: int
    overlaps: int
    digest_equal: bool | None  # None: no cut could be folded again, so nothing was compared
    scores_missing: int
    scores_doubled: int
    cuts_unverifiable: int
    faults: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        wrong = self.gaps + self.overlaps + self.scores_missing + self.scores_doubled
        return self.digest_equal is not False and not wrong

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "faults": list(self.faults)}


def verify(
    entries: Iterable[Entry],
    rebuild: Rebuild,
    published: Published,
    horizon: int = -1,
    repeats_allowed: bool = False,
    states: Mapping[int, str] = MappingProxyType({}),
) -> Report:
    """Audit a ledger. Up to cut `horizon` no score is missed: compaction removes older ones.

    `repeats_allowed`: at_least_once, where the last cut before a crash may be there again, the same
    byte for byte; elsewhere a second copy is a fault. `states`: cut -> digest of the state that a
    checkpoint holds of it, beside those that the ledger names.
    """
    kept, chain = links(entries)
    comparison = _Comparison(published, horizon, repeats_allowed)
    expected_states = dict(states) | {
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
        self.digest_equal: bool | None = None
        self.missing = self.doubled = self.unverifiable = 0
        self.faults: list[str] = []

    def cut(self, entry: Entry, rebuild: Rebuild, expected_states: Mapping[int, str]) -> None:
        result = rebuild.step(entry.record)
        if result is None:
            self.unverifiable += 1
            self._compare_count(entry)
            return
        if self.digest_equal is None:
            self.digest_equal = True
        if result.digest != entry.record.digest:
            self._differs(f"cut {entry.cut}: digest differs from the ledger's")
        expected = expected_states.get(entry.cut)
        if expected is not None and rebuild.state_digest() != expected:
            self._differs(f"cut {entry.cut}: state digest differs from the checkpoint's")
        self._compare(entry.cut, result.outputs)

    def close(self, cuts: set[int]) -> None:
        """Scores without their ledger record; older than the ledger is nobody's fault."""
        first = min(cuts, default=0)
        for cut, found in self._published.by_cut.items():
            if cut not in cuts and (cut >= first or cut < 0):
                self.doubled += found.total()
                self.faults.append(f"{found.total()} scores name cut {cut}, which is not committed")

    def _compare(self, cut: int, outputs: tuple[Output, ...]) -> None:
        due: Counter[Found] = Counter((o.key, _digest(o.value)) for o in outputs)
        found = self._published.by_cut.get(cut, Counter())
        further = found - due
        if self._repeats_allowed:  # a second whole copy is allowed, other content is not
            further = Counter({record: n for record, n in further.items() if record not in due})
        self._count(cut, (due - found).total(), further.total())

    def _compare_count(self, entry: Entry) -> None:
        """Without a rebuild the ledger's count is all there is to compare with."""
        due = entry.record.counts.get("outputs", 0)
        records = self._published.by_cut.get(entry.cut, Counter())
        found = len(records) if self._repeats_allowed else records.total()
        self._count(entry.cut, max(0, due - found), max(0, found - due))

    def _count(self, cut: int, missing: int, doubled: int) -> None:
        if cut <= self._horizon:
            missing = 0
        self.missing += missing
        self.doubled += doubled
        if missing or doubled:
            self.faults.append(f"cut {cut}: {missing} scores missing, {doubled} too many")

    def _differs(self, message: str) -> None:
        self.digest_equal = False
        self.faults.append(message)


def _digest(value: bytes | None) -> str:
    return "" if value is None else hashlib.blake2b(value, digest_size=16).hexdigest()
