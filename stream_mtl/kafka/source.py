"""The log, cut: live by time and count, or again as the ledger recorded it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import KafkaException

from stream_mtl.config import Config
from stream_mtl.cut import Cut, Range, Record, records_digest
from stream_mtl.errors import BrokerUnavailable, RollForwardMismatch, TopicChanged
from stream_mtl.kafka.heartbeat import EVERY_S, FIRST_S, Heartbeat
from stream_mtl.kafka.ownership import Place
from stream_mtl.kafka.reader import Reader, Slice
from stream_mtl.kafka.unstable import Unstable

# A fetch brings one partition after the other, each with all that one request may hold of it (see `settings`),
# so the last one shows up behind this much of the others. In cuts it cannot be said: theirs may be small.
_LOOK_AHEAD_BYTES = 64 << 20
_NAP_S = 0.05  # after which the stop flag is looked at again
_PATIENCE_S = 120.0  # roll-forward: without any message
_LAG_S = 5.0  # while commands alone are read, the other partitions' ends are asked for
_UNSTABLE_S = 5.0  # after which it is asked again what waits behind open transactions


class Source:
    """The partitions of one rank. `clock` is wall time in ms, kept in a live cut as `published_at`.

    `waiting` is called while a recorded cut does not come.
    One thread uses it; `heartbeat` adds a second one only while the first is busy elsewhere.
    """

    def __init__(
        self,
        config: Config,
        clock: Callable[[], int],
        rank: int | None = None,
        waiting: Callable[[], object] = lambda: None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._reader = Reader(config, config.source.rank if rank is None else rank)
        self._waiting = waiting
        self._frozen_at = 0.0  # monotonic, of the newest live cut
        self._lag_asked = float("-inf")  # monotonic
        self._unstable: dict[Place, Unstable] = {}
        self._unstable_asked = float("-inf")  # monotonic
        self._asked_again = False  # since then, whether this is really the end

    def open(self, positions: Mapping[Place, int]) -> None:
        """Start at these positions; a partition without one starts where `source.start` says.

        Raises ConfigError for a missing topic, BrokerUnavailable when nobody answers, PositionLost when a
        position is before the log's start (unless `source.on_gap` is skip) or beyond its end,
        TopicChanged for a position of a partition that is not ours.
        """
        self._reader.open(positions)

    def close(self) -> None:
        self._reader.close()

    @property
    def positions(self) -> dict[Place, int]:
        """Where the next cut starts, for every owned partition; what a commit of the last cut commits."""
        return dict(self._reader.position)

    @property
    def at_end(self) -> bool:
        """Has every owned partition reported its end, twice, with nothing polled left to cut?

        The first time the log is fetched once more from where we stand, since an end that was told before
        says nothing of what came since; the second time the ends are held against the broker's.
        """
        if not self._reader.at_end:
            return False
        if not self._asked_again:
            self._asked_again = True
            self._reader.ask_again()
            return False
        return self._reader.confirms_end()

    def prove(self) -> None:
        """One request a topic to the broker. Raises BrokerUnavailable when nobody answers."""
        for place in {topic: (topic, number) for topic, number in self._reader.position}.values():
            self._reader.bounds(place)

    @property
    def gap_records(self) -> dict[str, int]:
        """Topic -> offsets that expired before they were read and were skipped (`on_gap: skip`)."""
        return dict(self._reader.gaps)

    def lag(self) -> dict[Place, int]:
        """Offsets between position and known end, as of the last `next_cut`; never asks the broker."""
        return dict(self._reader.lag)

    def unstable(self, fresh: bool = False) -> dict[Place, Unstable]:
        """Where the log goes on behind the end of what may be read; unless `fresh`, as of the last few seconds."""
        now = time.monotonic()
        if fresh or now - self._unstable_asked >= _UNSTABLE_S:
            self._unstable_asked = now
            with contextlib.suppress(KafkaException):  # unknown is not ended: what was known stays
                self._unstable = self._reader.unstable()
        return self._unstable

    def next_cut(
        self,
        number: int,
        stop: Callable[[], bool] = lambda: False,
        at_most: int | None = None,
    ) -> Cut | None:
        """The next live micro-batch; None when no record came within one interval, or on `stop`.

        It closes `cut.interval_ms` after the one before, so that what came in meanwhile need not wait
        again, but gives records that are on their way a quarter of that; or at `cut.max_records`
        (or `at_most`, if fewer), records beyond wait.
        In a backlog it looks ahead until no partition can have an earlier record than the last of the cut, so
        that a cut takes the earliest ones of all.
        """
        reader, limit = self._reader, self._config.cut.max_records
        reader.poll_only(None)
        limit = limit if at_most is None else min(limit, at_most)
        interval_s = self._config.cut.interval_ms / 1_000
        deadline = time.monotonic() + interval_s
        started = len(reader) > 0
        if started:
            deadline = self._deadline(interval_s)
        while self._wants_more(limit) and not stop():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                break
            # Singly until the first record: the client returns only when it has all or time is over.
            missing = limit - len(reader)
            ask = missing if missing > 0 else limit
            reader.poll(ask if started else 1, min(left_s, _NAP_S))
            if len(reader) and not started:
                started, deadline = True, self._deadline(interval_s)
        cut = None
        if len(reader) and not stop():
            cut = self._freeze(number, reader.take(min(limit, len(reader))))
        reader.refresh_lag()
        return cut

    def next_commands(self, number: int, stop: Callable[[], bool] = lambda: False) -> Cut | None:
        """The next cut of commands alone; None when none came within one interval, or on `stop`.

        All other partitions stand where they are, and records of theirs that were polled wait for `next_cut`.
        Their lag is asked for every few seconds.
        """
        reader, topic = self._reader, self._config.topics.control
        reader.poll_only(topic)
        deadline = time.monotonic() + self._config.cut.interval_ms / 1_000
        while not reader.waiting(topic) and not stop() and time.monotonic() < deadline:
            reader.poll(1, _NAP_S)
        cut = None
        if reader.waiting(topic) and not stop():
            reader.poll(self._config.cut.max_records, 0.0)
            slices = reader.take(min(self._config.cut.max_records, reader.waiting(topic)))
            cut = Cut(number, _records(slices), _ranges(slices), self._clock())
            self._frozen_at, self._asked_again = time.monotonic(), False
        reader.refresh_lag()
        if time.monotonic() - self._lag_asked >= _LAG_S:
            reader.ask_lag()
            self._lag_asked = time.monotonic()
        return cut

    @property
    def commands_at_end(self) -> bool:
        """Whether every command there was has been taken, as of the last `next_commands`."""
        return self._reader.ended(self._config.topics.control)

    def cut_until(self, number: int, stops: Mapping[Place, int]) -> Cut:
        """A live cut with these borders, whatever else is there: one that was tried before.

        Raises BrokerUnavailable when it does not come, PositionLost when the log ends before it.
        """
        self._reader.poll_only(None)
        stops = self.positions | dict(stops)
        self._poll_until(stops)
        cut = self._freeze(number, self._reader.take_until(stops))
        self._reader.refresh_lag()
        return cut

    def return_to(self, positions: Mapping[Place, int]) -> None:
        """Read on from here: what was taken and not folded is to be taken again."""
        self._reader.jump(positions)

    def _freeze(self, number: int, slices: Sequence[Slice]) -> Cut:
        self._frozen_at, self._asked_again = time.monotonic(), False
        return Cut(number, _records(slices), _ranges(slices), self._clock())

    def _deadline(self, interval_s: float) -> float:
        """When the cut closes whose first record is here."""
        now = time.monotonic()
        return min(max(self._frozen_at + interval_s, now + interval_s / 4), now + interval_s)

    def _wants_more(self, limit: int) -> bool:
        reader = self._reader
        if len(reader) < limit:
            return True
        return reader.held_bytes < _LOOK_AHEAD_BYTES and not reader.settled(limit)

    def read(self, ranges: Sequence[Range]) -> list[Record]:
        """The records of a recorded cut in its order, compared with its counts and hashes.

        Best called for one cut after the other: then the log is read straight on.
        Raises PositionLost when the log no longer holds a range, RollForwardMismatch when it holds other
        records there, TopicChanged when the cut covers other partitions than we own.
        """
        recorded = {(one.topic, one.partition): one for one in ranges}
        if recorded.keys() != self._reader.position.keys():
            raise TopicChanged(
                f"the ledger's cut covers {len(recorded)} partitions, the configured topics have"
                f" {len(self._reader.position)}; restore them, or begin anew, with another app, topics.ledger and"
                " --state"
            )
        starts = {place: one.start for place, one in recorded.items()}
        if starts != self._reader.position:
            self._reader.jump(starts)
        stops = {place: one.stop for place, one in recorded.items()}
        self._poll_until(stops)
        slices = self._reader.take_until(stops)
        for one in slices:
            _compare(recorded[one.place], one)
        return list(_records(slices))

    def heartbeat(self, first_s: float = FIRST_S, every_s: float = EVERY_S) -> Heartbeat:
        """`with source.heartbeat(): step()` keeps the client alive however long the step is.

        After `first_s` it gives all partitions back and polls; afterwards reading goes on where it was.
        """
        reader = self._reader
        return Heartbeat(
            reader.let_go, lambda: reader.poll(100, 0.0), reader.take_up, first_s, every_s
        )

    def _poll_until(self, stops: Mapping[Place, int]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        left = [place for place in stops if not self._reader.covers(place, stops[place])]
        while left:
            self._waiting()
            if self._reader.poll(1_000, 0.02):
                deadline = time.monotonic() + _PATIENCE_S
            elif time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"roll-forward: nothing came for {_PATIENCE_S:.0f} s from"
                    f" {self._config.kafka.bootstrap}, waiting for {left[:3]}; is the broker up?"
                )
            left = [place for place in left if not self._reader.covers(place, stops[place])]


def _records(slices: Sequence[Slice]) -> tuple[Record, ...]:
    return tuple(record for one in slices for record in one.records)


def _ranges(slices: Sequence[Slice]) -> tuple[Range, ...]:
    return tuple(
        Range(*one.place, one.start, one.stop, len(one.records), records_digest(one.records))
        for one in slices
    )


def _compare(recorded: Range, found: Slice) -> None:
    digest = records_digest(found.records)
    if (len(found.records), digest) == (recorded.records, recorded.digest):
        return
    raise RollForwardMismatch(
        f"{recorded.topic}[{recorded.partition}] offsets {recorded.start} to {recorded.stop}: the cut saw"
        f" {recorded.records} records with hash {recorded.digest}, now there are {len(found.records)} with"
        f" {digest}; the log was compacted, truncated or rewritten; restore a newer checkpoint or start a"
        " new lineage"
    )
