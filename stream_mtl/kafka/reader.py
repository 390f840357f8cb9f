"""Records as they come from the owned partitions, with the two things arithmetic cannot know: ends and gaps.

Positions are ours alone: nothing is stored by the client, nothing is reset by it. A position is the offset of
the next record to read. Whether a partition is at its end is known from the client's end event, since
transaction markers take offsets and compaction leaves holes.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, islice, takewhile
from typing import Any

from confluent_kafka import Consumer, KafkaError, TopicPartition

from schemas.scores import TopicIdentity
from stream_mtl.config import Config
from stream_mtl.cut import Record
from stream_mtl.errors import BrokerUnavailable, PositionLost, StorageError, TopicChanged
from stream_mtl.kafka.bounds import bounds
from stream_mtl.kafka.faults import damaged, is_damaged, is_denied, is_missing
from stream_mtl.kafka.ownership import Place, owned
from stream_mtl.kafka.rights import explain_denial
from stream_mtl.kafka.settings import consumer_settings, open_consumer
from stream_mtl.kafka.topics import check_identities, identities
from stream_mtl.kafka.unstable import Unstable, unstable

_LOST = {
    KafkaError._AUTO_OFFSET_RESET,
    KafkaError.OFFSET_OUT_OF_RANGE,
    KafkaError._LOG_TRUNCATION,
}
_LOG = logging.getLogger("stream_mtl.kafka")


@dataclass(frozen=True, slots=True)
class Slice:
    """Records of one partition that leave the reader together: offsets [start, stop)."""

    place: Place
    start: int
    stop: int
    records: tuple[Record, ...]


class Reader:
    """Polls the partitions of one rank into a buffer, from which slices are taken."""

    def __init__(self, config: Config, rank: int) -> None:
        self._config = config
        self._rank = rank
        self._consumer: Consumer | None = None
        self._identity: dict[str, TopicIdentity] = {}
        self._fetched: dict[Place, int] = {}  # after the last record that poll gave us
        self._end: dict[Place, int] = {}  # offset of the end event, until a record follows it
        self._buffer: dict[Place, deque[Record]] = {}  # polled and not taken
        self._held = 0  # records in all buffers
        self.held_bytes = 0  # of their keys and values
        self._only: str | None = None  # the one topic that is polled now
        self.position: dict[
            Place, int
        ] = {}  # after the last record taken, in order of topic, partition
        self.lag: dict[Place, int] = {}
        self.gaps: dict[str, int] = {}

    def __len__(self) -> int:
        return self._held

    @property
    def at_end(self) -> bool:
        return not self._held and len(self._end) == len(self.position)

    def settled(self, count: int) -> bool:
        """Are the earliest `count` records of all partitions here, as far as each one's times go forward?

        Nothing earlier is to come of a partition than the newest record that it has shown; of one that is at its end, nothing.
        """
        behind = [waiting for place, waiting in self._buffer.items() if place not in self._end]
        if not all(behind):
            return False
        if not behind:
            return True
        horizon = min(_stamp(waiting[-1]) for waiting in behind)
        early = (
            takewhile(lambda r: _stamp(r) <= horizon, waiting) for waiting in self._buffer.values()
        )
        return sum(1 for _ in islice(chain.from_iterable(early), count)) == count

    @property
    def client(self) -> Consumer:
        assert self._consumer is not None, "open() comes first"
        return self._consumer

    def open(self, positions: Mapping[Place, int]) -> None:
        """See `Source.open`."""
        config = self._config
        self._identity = identities(config)
        counts = {topic: one.partitions for topic, one in self._identity.items()}
        mine = owned(config, counts, self._rank, config.source.ranks)
        stray = sorted(set(positions) - set(mine))
        if stray:
            raise TopicChanged(
                f"the ledger has positions of partitions that are not there or not configured: {stray[:5]}; restore"
                " them, or begin anew, with another app, topics.ledger and --state"
            )
        self._consumer = open_consumer(consumer_settings(config))
        for place in mine:
            low, high = self.bounds(place)
            first = low if config.source.start == "beginning" else high
            self.position[place] = self._checked(place, positions.get(place, first), low, high)
            self.lag[place] = high - self.position[place]
            self._buffer[place] = deque()
        self._assign(self.position)

    def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def poll(self, count: int, timeout_s: float) -> int:
        """Wait until `count` messages came or the time is over; how many came."""
        messages = self.client.consume(count, timeout_s)
        self._keep_all(messages)
        return len(messages)

    def poll_only(self, topic: str | None) -> None:
        """Poll this topic's partitions alone from now on, None: all again. What was polled before stays here."""
        if topic != self._only:
            self._only = topic
            self._assign(self._fetched)

    def let_go(self) -> None:
        """Hand all partitions back to the client, so that polling it brings nothing.

        Not the client's own pause: what that one throws away and where it goes on is the client's
        bookkeeping (batch consumption once skipped offsets over it); here it is ours alone.
        """
        self.client.unassign()

    def take_up(self) -> None:
        """After `let_go`: go on behind the last record that poll gave us; ends must be told again."""
        self._assign(self._fetched)

    def take(self, count: int) -> list[Slice]:
        """The earliest `count` polled records, as one slice of every owned partition (idle: start == stop).

        Partitions are merged by Kafka timestamp, so that a backlog is read about as it was written and not
        one partition after the other.
        """
        own: dict[Place, list[Record]] = {place: [] for place in self.position}
        heads = [
            (_stamp(waiting[0]), place)
            for place, waiting in self._buffer.items()
            if waiting and self._polls(place)
        ]
        heapq.heapify(heads)
        for _ in range(count):
            _, place = heads[0]
            waiting = self._buffer[place]
            own[place].append(self._next(waiting))
            if waiting:
                heapq.heapreplace(heads, (_stamp(waiting[0]), place))
            else:
                heapq.heappop(heads)
        return [self._slice(place, records) for place, records in own.items()]

    def waiting(self, topic: str) -> int:
        """Records of a topic that are polled and not taken."""
        return sum(len(held) for place, held in self._buffer.items() if place[0] == topic)

    def ended(self, topic: str) -> bool:
        """Has every partition of a topic told its end, with nothing left to take?"""
        mine = [place for place in self.position if place[0] == topic]
        return not self.waiting(topic) and all(place in self._end for place in mine)

    def ask_lag(self) -> None:
        """Of what is not polled, from the broker: a request a partition. The numbers stay when it does not answer."""
        with contextlib.suppress(BrokerUnavailable):
            for place, at in self.position.items():
                if not self._polls(place):
                    self.lag[place] = max(0, self.bounds(place)[1] - at)

    def unstable(self) -> dict[Place, Unstable]:
        """Of partitions that are read to their end: see `unstable`."""
        return unstable(self.client, self._end)

    def take_until(self, stops: Mapping[Place, int]) -> list[Slice]:
        """The polled records below these offsets; `covers` told that they are all here."""
        slices = []
        for place, waiting in self._buffer.items():
            records = []
            while waiting and waiting[0].offset < stops[place]:
                records.append(self._next(waiting))
            slices.append(Slice(place, self.position[place], stops[place], tuple(records)))
            self.position[place] = stops[place]
        return slices

    def _slice(self, place: Place, records: list[Record]) -> Slice:
        start = stop = self.position[place]
        if records:
            stop = records[-1].offset + 1  # never up to an end event: it may know of unread records
        self.position[place] = stop
        return Slice(place, start, stop, tuple(records))

    def covers(self, place: Place, stop: int) -> bool:
        """Is everything below `stop` here? Known from a later record or the end event, never from a count."""
        if self._fetched[place] >= stop:
            return True
        end = self._end.get(place)
        if end is not None and end < stop:
            raise self._beyond(place, stop, end)
        return end is not None

    def jump(self, positions: Mapping[Place, int]) -> None:
        """Read on elsewhere and forget what was polled. No gap is skipped: the caller needs these records."""
        for place, at in positions.items():
            if at != self.position[place]:
                self.position[place] = self._checked(place, at, *self.bounds(place), skip=False)
        for waiting in self._buffer.values():
            waiting.clear()
        self._held = self.held_bytes = 0
        self._assign(self.position)

    def ask_again(self) -> None:
        """Fetch anew from the positions; every end must be told again."""
        self._assign(self.position)

    def confirms_end(self) -> bool:
        """Are the ends that were told those of the broker now? A request a partition."""
        return all(end >= self.bounds(place)[1] for place, end in self._end.items())

    def bounds(self, place: Place) -> tuple[int, int]:
        """First offset held and the one after the last stable record: a request to the broker."""
        return bounds(self.client, place, self._config.kafka.bootstrap, known=True)

    def refresh_lag(self) -> None:
        """From what fetches told: no request. 0 only after an end event with nothing left to take."""
        for place, at in self.position.items():
            if not self._polls(place):
                continue
            if place in self._end and not self._buffer[place]:
                self.lag[place] = 0
                continue
            _, high = self.client.get_watermark_offsets(TopicPartition(*place), cached=True)
            if high >= 0:  # unknown before the first answer
                self.lag[place] = max(0, high - at)

    def _assign(self, positions: Mapping[Place, int]) -> None:
        self._end.clear()
        self._fetched.update(positions)
        polled = [TopicPartition(*p, at) for p, at in positions.items() if self._polls(p)]
        self.client.assign(polled)

    def _polls(self, place: Place) -> bool:
        return self._only is None or place[0] == self._only

    def _keep_all(self, messages: Iterable[Any]) -> None:
        for message in messages:
            place = (message.topic(), message.partition())
            error = message.error()
            if error is None:
                self._keep(place, message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._end[place] = message.offset()
            elif error.code() in _LOST:
                self._recover(place)
            elif is_missing(error):
                check_identities(self._identity, identities(self._config))
            elif error.fatal() or is_denied(error):
                raise explain_denial(error, f"reading {place[0]}", self._config)
            elif is_damaged(error):  # the client would go on behind them
                raise StorageError(damaged(error, place, self._fetched[place]))
            else:  # passes by itself: a leader moves, a broker restarts
                _LOG.warning("reading %s: %s", place[0], error.name())

    def _keep(self, place: Place, message: Any) -> None:
        offset = message.offset()
        if offset < self._fetched[place]:
            return  # fetched twice around a recovery
        self._end.pop(place, None)
        self._fetched[place] = offset + 1
        kind, timestamp = message.timestamp()
        headers = tuple(message.headers() or ())
        key, value = message.key(), message.value()
        record = Record(*place, offset, key, value, timestamp if kind else None, headers)
        self._held += 1
        self.held_bytes += _size(record)
        self._buffer[place].append(record)

    def _next(self, waiting: deque[Record]) -> Record:
        """Out of its buffer."""
        record = waiting.popleft()
        self._held -= 1
        self.held_bytes -= _size(record)
        return record

    def _recover(self, place: Place) -> None:
        """The broker refused our position while we ran: stop, or go on at the log's start (`on_gap`)."""
        check_identities(self._identity, identities(self._config))
        at = self._checked(place, self._fetched[place], *self.bounds(place))
        if self.position[place] == self._fetched[place]:
            self.position[place] = at
        self._fetched[place] = at
        self._assign(self._fetched)

    def _checked(self, place: Place, wanted: int, low: int, high: int, skip: bool = True) -> int:
        """The position to use when `wanted` may be gone."""
        if wanted > high:
            raise self._beyond(place, wanted, high)
        if wanted >= low:
            return wanted
        if skip and self._config.source.on_gap == "skip":
            self.gaps[place[0]] = self.gaps.get(place[0], 0) + low - wanted
            return low
        raise PositionLost(
            f"{place[0]}[{place[1]}]: wanted offset {wanted}, the log holds {low} to {high}: {low - wanted}"
            " offsets expired unread; restore a newer checkpoint, lengthen retention for the next time, or"
            " set source.on_gap = skip (skipped offsets are counted)"
        )

    @staticmethod
    def _beyond(place: Place, wanted: int, high: int) -> PositionLost:
        return PositionLost(
            f"{place[0]}[{place[1]}]: wanted offset {wanted}, the log ends at {high}; it was truncated or"
            " created anew; restore it, or start over with --accept-topic-recreation"
        )


def _size(record: Record) -> int:
    """Bytes of key and value."""
    return len(record.key or b"") + len(record.value or b"")


def _stamp(record: Record) -> int:
    """Kafka's time of a record."""
    return record.timestamp_ms or 0
