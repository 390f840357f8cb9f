"""Property P, decided from a history alone.

1. a score is there exactly once for a `read_committed` reader, and never without its ledger record
2. each input offset lies in exactly one range: no gap, no overlap, nothing beyond the real end
3. each poisoned record is dead-lettered exactly once, and nothing else is
4. the digest of every cut, and that of every state that was saved, is the fault-free fold's
5. a usable checkpoint exists at or before the last cut, and what follows it can still be read
6. what the client was told agrees with the log: a commit that succeeded is there, one that surely failed is not
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.soak.history import Call, History, LedgerCut, Place, Span

# Everything that can be wrong, by name.
KINDS = (
    "score missing",
    "score doubled",
    "score of another content",
    "score without ledger record",
    "gap",
    "overlap",
    "beyond the end",
    "unread",
    "poison not dead-lettered",
    "poison dead-lettered twice",
    "clean record dead-lettered",
    "digest",
    "state digest",
    "no usable checkpoint",
    "roll-forward expired",
    "ledger chain",
    "cut twice",
    "committed but lost",
    "failed but there",
)


@dataclass(frozen=True)
class Violation:
    """One thing that is wrong: a word of `KINDS`, and where."""

    kind: str
    where: str


def judge(history: History) -> tuple[Violation, ...]:
    """Everything that is wrong with a history; empty when property P holds."""
    parts = (_chain, _scores, _ranges, _letters, _digests, _checkpoints, _calls)
    return tuple(Violation(kind, where) for part in parts for kind, where in part(history))


def judge_sink(history: History) -> tuple[Violation, ...]:
    """The same of a sink that ran without a worker: its transactions and what it told of them."""
    return tuple(
        Violation(kind, where)
        for part in (_chain, _scores, _calls)
        for kind, where in part(history)
    )


def summary(violations: Iterable[Violation]) -> str:
    """`0 violations`, or how many of each kind."""
    counted = Counter(violation.kind for violation in violations)
    if not counted:
        return "0 violations"
    return ", ".join(f"{number} x {kind}" for kind, number in sorted(counted.items()))


Found = Iterator[tuple[str, str]]


def _chain(history: History) -> Found:
    before: LedgerCut | None = None
    seen: set[int] = set()
    for cut in history.cuts:
        if cut.number in seen:
            yield "cut twice", f"cut {cut.number}"
        seen.add(cut.number)
        if before is None:
            fits = (cut.number, cut.previous) == (0, "")
        else:
            fits = cut.previous == before.hash and cut.number == before.number + 1
        if not fits:
            yield "ledger chain", f"cut {cut.number} does not follow what lies before it"
        before = cut


def _scores(history: History) -> Found:
    there: defaultdict[int, Counter[tuple[str, str]]] = defaultdict(Counter)
    for (cut, key, value), count in history.scores.items():
        there[cut][key, value] += count
    committed = {cut.number for cut in history.cuts}
    for number in sorted(there.keys() - committed):
        yield "score without ledger record", f"{there[number].total()} scores name cut {number}"
    for number in sorted(committed & history.folded.keys()):
        due, found = history.folded[number].scores, there[number]
        missing, further = due - found, found - due
        copies = Counter({record: n for record, n in further.items() if record in due})
        foreign = further - copies
        if missing:
            yield "score missing", f"cut {number}: {missing.total()} of {due.total()}"
        if copies:
            yield "score doubled", f"cut {number}: {copies.total()} copies"
        if foreign:
            yield "score of another content", f"cut {number}: {foreign.total()}"


def _ranges(history: History) -> Found:
    spans: defaultdict[Place, list[tuple[int, Span]]] = defaultdict(list)
    for cut in history.cuts:
        for span in cut.spans:
            spans[span.place].append((cut.number, span))
    for place, partition in sorted(history.inputs.items()):
        where = f"{place[0]}[{place[1]}]"
        reads = Counter(
            offset
            for _, span in spans[place]
            for offset in range(span.start, min(span.stop, partition.high))
        )
        twice = sorted(offset for offset, times in reads.items() if times > 1)
        if twice:
            yield "overlap", f"{where}: {len(twice)} offsets twice, first {twice[0]}"
        stop = max((span.stop for _, span in spans[place]), default=0)
        if stop > partition.high:
            yield "beyond the end", f"{where}: read to {stop}, the end is {partition.high}"
        unread = sorted(offset for offset in partition.records if offset not in reads)
        gaps = [offset for offset in unread if offset < stop]
        if gaps:
            yield "gap", f"{where}: {len(gaps)} records in no range, first {gaps[0]}"
        if history.complete and len(unread) > len(gaps):
            yield "unread", f"{where}: {len(unread) - len(gaps)} records after {stop}"
        yield from _seams(where, spans[place])


def _seams(where: str, spans: list[tuple[int, Span]]) -> Found:
    """Ranges meet even where no record lies between them: else a later record could fall through."""
    for (_, before), (number, span) in pairwise(spans):
        if span.start > before.stop:
            yield "gap", f"{where}: cut {number} starts at {span.start}, {before.stop} was due"
        if span.stop < span.start:
            yield "overlap", f"{where}: cut {number} ends before its start"


def _letters(history: History) -> Found:
    read = {
        (*span.place, offset)
        for cut in history.cuts
        for span in cut.spans
        for offset in range(span.start, min(span.stop, _high(history, span.place)))
    }
    for spot in sorted(history.poison & read):
        times = history.letters[spot]
        if times == 0:
            yield "poison not dead-lettered", str(spot)
        if times > 1:
            yield "poison dead-lettered twice", str(spot)
    for spot in sorted(history.letters.keys() - (history.poison & read)):
        yield "clean record dead-lettered", str(spot)


def _high(history: History, place: Place) -> int:
    partition = history.inputs.get(place)
    return partition.high if partition else 0


def _digests(history: History) -> Found:
    for cut in history.cuts:
        folded = history.folded.get(cut.number)
        if folded is not None and folded.digest != cut.digest:
            yield "digest", f"cut {cut.number}"
    told = [(one.cut, one.state_digest) for one in history.checkpoints if one.usable]
    for number, digest in sorted({*told, *history.told_states.items()}):
        folded = history.folded.get(number)
        if folded is not None and folded.state_digest and folded.state_digest != digest:
            yield "state digest", f"after cut {number}"


def _checkpoints(history: History) -> Found:
    if not history.cuts:
        return
    hashes = {cut.hash: cut.number for cut in history.cuts}
    usable = [c for c in history.checkpoints if c.usable and hashes.get(c.ledger_hash) == c.cut]
    if not usable:
        yield "no usable checkpoint", f"of {len(history.checkpoints)}"
        return
    newest = max(usable, key=lambda one: one.cut)
    for place, at in sorted(newest.positions.items()):
        partition = history.inputs.get(place)
        later = any(span.place == place and span.stop > at for span in _after(history, newest.cut))
        if partition is not None and later and at < partition.low:
            yield (
                "roll-forward expired",
                f"{place[0]}[{place[1]}]: needs {at}, the log begins at {partition.low}",
            )


def _after(history: History, number: int) -> Iterator[Span]:
    return (span for cut in history.cuts if cut.number > number for span in cut.spans)


def _calls(history: History) -> Found:
    """An indeterminate commit, and one that died with its process, may be there or not."""
    committed = {cut.number for cut in history.cuts}
    tries: defaultdict[int, list[Call]] = defaultdict(list)
    for call in history.calls:
        if call.call == "commit" and call.cut >= 0:
            tries[call.cut].append(call)
    for number, calls in sorted(tries.items()):
        outcomes = Counter(call.outcome for call in calls)
        if outcomes["ok"] and number not in committed:
            yield "committed but lost", f"cut {number}"
        if outcomes["failed"] == outcomes["invoked"] and number in committed:
            yield "failed but there", f"cut {number}"
