"""`replay --from-scratch`: the history learned anew by an empty model of the present settings, as a challenger.

It folds the ledger's cuts in their order, from the first whose records are still there; nothing is compared, since it is
another model. On the newest cuts the recorded one is folded beside it, from its oldest checkpoint on, and the gate
says which of the two is better. The challenger's state is kept beside the checkpoints; the command `promote` puts
what it has learned in the place of what the worker has.

It is also the exact way to unlearn: a log from which somebody's records are gone teaches nothing of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stream_mtl.config import Config, fold_hash
from stream_mtl.contest import Contest
from stream_mtl.cut import Range, Record
from stream_mtl.errors import CheckpointMissing, ConfigError, ForeignState, PositionLost
from stream_mtl.ledger import Entry, cut_of, ranges_of
from stream_mtl.pipeline import Pipeline
from stream_mtl.recovery import ReadRanges, differences, find_start, restore, roll_forward
from stream_mtl.rollback import CHALLENGERS
from workers.known_config import remembered
from workers.proof import Archive, Before, Told, keep, range_of
from workers.rollback import lineage_id, loader


@dataclass(frozen=True, slots=True)
class Challenger:
    """A model that has learned the history anew, and what the gate says of it."""

    lineage: str
    checkpoint: str
    first: int
    last: int
    judged: Mapping[str, int]  # rows of each task that both models judged
    verdict: str  # promote, hold back, not judged
    reasons: Sequence[str]
    tasks: Mapping[str, Mapping[str, Any]]
    state_digest: str


def challenge(config: Config, told: Told = lambda done, whole: None) -> Challenger:
    """Learn the whole of the ledger's history anew. Raises PositionLost when none of it can be read."""
    from stream_mtl import build
    from stream_mtl.kafka.topics import cluster_id

    with Archive(config) as archive:
        _, high = range_of(archive, None, None)
        entries = archive.upto(high)
        cuts = [entry for entry in entries if entry.record.kind == "cut"]
        once = _Once(archive.read)
        fold = build(config, lineage_id())
        champion = _Champion(archive, entries, once)
        first = _first_readable(cuts, once)
        for done, entry in enumerate(cuts[first:], first + 1):
            fold.step(cut_of(entry.record, tuple(once(ranges_of(entry.record)))))
            champion.follow(entry, fold)
            told(done, len(cuts))
        context = replace(archive.context(entries[-1]), lineage=fold.lineage)
        folder = Path(config.state) / CHALLENGERS
        name = keep(folder, fold, context, entries[-1], cluster_id(config))
        verdict, reasons = champion.verdict()
    return Challenger(
        lineage=fold.lineage,
        checkpoint=name,
        first=cuts[first].cut,
        last=high,
        judged=champion.contest.labels(),
        verdict=verdict,
        reasons=reasons,
        tasks=fold.quality(),
        state_digest=fold.state_digest(),
    )


class _Once:
    """Reads the records of a cut once for both models."""

    def __init__(self, read: ReadRanges) -> None:
        self._read = read
        self._ranges: Sequence[Range] = ()
        self._records: Sequence[Record] = ()

    def __call__(self, ranges: Sequence[Range]) -> Sequence[Record]:
        if tuple(ranges) != self._ranges:
            self._records = self._read(ranges)
            self._ranges = tuple(ranges)
        return self._records


def _first_readable(cuts: Sequence[Entry], read: ReadRanges) -> int:
    for place, entry in enumerate(cuts):
        try:
            read(ranges_of(entry.record))
        except PositionLost:
            continue
        return place
    raise PositionLost(
        "the inputs of every cut in the ledger have expired: there is no history to learn from; lengthen the "
        "retention of the event topics for the next time"
    )


class _Champion:
    """The recorded model, folded again over the newest cuts; absent where it cannot be, with the reason."""

    def __init__(self, archive: Archive, entries: Sequence[Entry], read: ReadRanges) -> None:
        from stream_mtl import build
        from stream_mtl.kafka.topics import cluster_id

        self.contest, self.why = Contest(archive.config.gate), ""
        self._fold: Pipeline | None = None
        self._from = -1
        last = entries[-1]
        try:
            config = _config_of(archive, last)
            start = find_start(
                _oldest(archive),
                lambda offset: [e for e in entries if offset is None or e.offset >= offset],
                cluster_id(config),
                archive.context(last),
            )
            fold = build(config, last.record.lineage)
            restore(fold, start)
        except (ForeignState, CheckpointMissing, ConfigError) as error:
            self._give_up(error)
            return
        self._fold = fold
        self._from = start.cuts[0].cut if start.cuts else last.cut + 1
        self._replayed = roll_forward(
            fold, start, read, loader(archive.before(last.cut + 1), config), compare=False
        )

    def follow(self, entry: Entry, challenger: Pipeline) -> None:
        if self._fold is None or entry.cut < self._from:
            return
        try:
            next(self._replayed)
        except CheckpointMissing as error:  # of a rollback on the way
            self._give_up(error)
        else:
            self.contest.feed(self._fold, challenger)

    def _give_up(self, error: Exception) -> None:
        self.why = f"the recorded model cannot be folded beside it: {error}"
        self._fold = None

    def verdict(self) -> tuple[str, Sequence[str]]:
        if self.why:
            return "not judged", [self.why]
        try:
            found = self.contest.verdict()
        except ConfigError as error:
            return "not judged", [str(error)]
        return found.decision, found.reasons


def _oldest(archive: Archive) -> Before:
    """As long a span as there is."""
    known = archive.before(archive.entries[-1].cut + 1).list()
    return archive.before(known[-1].cut + 1 if known else 0)


def _config_of(archive: Archive, last: Entry) -> Config:
    """The settings that the worker ran with, as its state folder remembers them."""
    config = archive.config
    if not differences(last.record, archive.context(last)):
        return config
    folded = remembered(Path(config.state))
    whole = {**config.model_dump(mode="json"), **folded}
    then = Config.model_validate(whole)
    if fold_hash(then) != last.record.config_hash:
        raise ForeignState("its settings are not known any more")
    return then
