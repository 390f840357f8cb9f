"""Finds the record that kills the worker: a segfault or the out-of-memory killer leaves nobody to ask.

A process that dies says no goodbye, which the next start notices. From then on each cut is written down
before it is folded, until one commits. A cut that was begun `DEATHS` times and never committed is halved, and
so on: what dies is halved again, what commits is innocent and the rest is looked at. A single record that
has killed `DEATHS` times is quarantined: refused unread, in a cut of its own, with a decision in the ledger.

Kills from outside meet cuts that go through when they are tried again, so they quarantine nothing. Only deaths
inside the fold count: one during a commit, as of a worker whose broker is away, says nothing of a record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from stream_mtl.cut import Cut, Record
from stream_mtl.ledger import Partition, Positions
from workers.attempts import Attempts, AttemptsFile, Trial, remaining
from workers.ports import Log, Stopped

DEATHS = 3
_LOG = logging.getLogger(__name__)


class Isolation:
    """Chooses the cuts of a worker whose predecessor died; otherwise does nothing (`active` is False)."""

    def __init__(self, file: AttemptsFile, source: Log, tell: Callable[[int], None]) -> None:
        """`tell` gets the number of records under suspicion whenever it changes."""
        self._file, self._source, self._tell = file, source, tell
        self._pending: Trial | None = None  # tried next; its `tries` were all deaths
        self._trial: Trial | None = None  # being folded
        self._arrived = self.active = False

    def arrive(self) -> None:
        """State and positions are those after the last committed cut: what has happened since?"""
        found = self._file.read()
        self._pending = _matching(found.trial, self._source.positions)
        self.active = self._pending is not None or not found.left
        if self.active:
            why = "left in the middle of a trial" if found.left else "died without a goodbye"
            _LOG.warning("the last process %s: the next cut is tried with care", why)
        self._file.write(Attempts(left=False, trial=self._pending))
        self._arrived = True

    def next_cut(self, number: int, stop: Stopped) -> Cut | None:
        """The cut to be tried now, written down before it is given."""
        pending, starts = self._pending, dict(self._source.positions)
        if pending is not None:  # commands may have been read since
            stops = {p: max(stop, starts.get(p, stop)) for p, stop in pending.stops.items()}
            pending = replace(pending, starts=starts, stops=stops)
        if pending is None:
            cut = self._source.next_cut(number, stop)
            if cut is None:
                return None
            stops = _stops(cut)
            return self._begin(cut, Trial(starts, stops, stops, tries=0, patience=DEATHS))
        cut = self._source.cut_until(number, pending.stops)
        alone = len(cut.records) <= 1
        if alone and pending.tries >= DEATHS:
            cut = replace(cut, quarantined=frozenset(map(_coordinates, cut.records)))
            _LOG.warning("quarantined, since it killed the worker: %s", sorted(cut.quarantined))
            return self._begin(cut, replace(pending, suspects=pending.stops))
        if not alone and pending.tries >= pending.patience:
            self._source.return_to(starts)
            half = starts | _first_half(cut.records)
            cut = self._source.cut_until(number, half)
            pending = Trial(starts, half, pending.stops, tries=0, patience=1)
        return self._begin(cut, pending)

    def folded(self) -> None:
        """The fold went through: a death from here on is none of the records' doing."""
        self._file.write(Attempts(left=False, trial=self._pending))

    def committed(self) -> None:
        """The cut went through."""
        assert self._trial is not None
        self._pending, self._trial = remaining(self._trial), None
        if self._pending is None:
            self.active = False
            self._tell(0)
            self._file.write(Attempts(left=False))
            _LOG.warning("what was under suspicion went through, or is quarantined")

    def leave(self) -> None:
        """An orderly end. A cut that is being tried has not died of this."""
        if self._arrived:
            self._file.write(Attempts(left=True, trial=self._pending))

    def _begin(self, cut: Cut, trial: Trial) -> Cut:
        self._pending = trial
        self._trial = replace(trial, tries=trial.tries + 1)
        self._file.write(Attempts(left=False, trial=self._trial))
        self._tell(len(cut.records))
        if trial.tries:
            _LOG.warning(
                "trying cut %d of %d records, which has killed %d times",
                cut.number, len(cut.records), trial.tries,
            )  # fmt: skip
        return cut


def _matching(trial: Trial | None, positions: Positions) -> Trial | None:
    """What of an earlier trial is still to be tried from here; None when it has nothing to do with here."""
    if trial is None or positions == trial.starts:
        return trial
    return remaining(trial) if positions == trial.stops else None


def _stops(cut: Cut) -> Positions:
    return {(one.topic, one.partition): one.stop for one in cut.ranges}


def _coordinates(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset


def _first_half(records: Sequence[Record]) -> Positions:
    """Where the earlier half of these records ends, by the time when they were written."""
    latest: dict[Partition, int] = {}
    keyed = []
    for record in records:
        place = (record.topic, record.partition)
        # never before its forerunner in the partition: the half must be the start of every partition
        latest[place] = max(latest.get(place, 0), record.timestamp_ms or 0)
        keyed.append((latest[place], place, record.offset))
    return {place: offset + 1 for _, place, offset in sorted(keyed)[: len(keyed) // 2]}
