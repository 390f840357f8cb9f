"""Plain clients around the worker: one that writes events, one that reads published scores."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from stream_mtl.config import Config
from stream_mtl.cut import Headers
from stream_mtl.errors import BrokerUnavailable
from stream_mtl.kafka.bounds import bounds
from stream_mtl.kafka.faults import CALL_S, error_of, explain, is_denied
from stream_mtl.kafka.settings import (
    ONE_REQUEST,
    consumer_settings,
    open_consumer,
    open_producer,
    producer_settings,
)

_FLUSH_S = 60.0


class EventWriter:
    """Writes events for the simulator and the demo: idempotent, Java's partitioner, no transaction. One request is
    under way at a time: of two to a partition that only just comes up the first can get lost (see `receipts`).

    `hold(written)` is asked before each record: while it says True the writer waits. The embedded broker drops
    what its readers are too slow for, so the demo holds by its reader's lag.
    """

    def __init__(self, config: Config, hold: Callable[[int], bool] = lambda written: False) -> None:
        self._bootstrap = config.kafka.bootstrap
        self._producer = open_producer({**producer_settings(config), "linger.ms": 5, **ONE_REQUEST})
        self._hold = hold
        self._failed: list[Any] = []
        self.written = self._delivered_count = 0

    def write(
        self,
        topic: str,
        key: bytes | str | None,
        value: bytes | None,
        timestamp_ms: int | None = None,
    ) -> None:
        """Queue one record; it is sent in the background. Raises for an earlier one that failed."""
        while self._hold(self.written):
            self._producer.poll(0.005)
        stamp = 0 if timestamp_ms is None else timestamp_ms  # 0: the client takes its clock
        while True:
            try:
                self._producer.produce(
                    topic, value, key, on_delivery=self._delivered, timestamp=stamp
                )
                break
            except BufferError:  # the queue is full: let it drain
                self._producer.poll(0.1)
            except KafkaException as error:
                raise explain(error_of(error), "writing events", self._bootstrap) from None
        self.written += 1
        if self.written % 256 == 0:
            self._producer.poll(0)
            self._raise_failure()

    def flush(self) -> None:
        """Wait until the broker has everything. Raises BrokerUnavailable when it does not take it."""
        left = self._producer.flush(_FLUSH_S)
        self._raise_failure()
        if left:
            raise BrokerUnavailable(f"{left} events not taken by {self._bootstrap} in {_FLUSH_S} s")
        if self._delivered_count != self.written:
            raise BrokerUnavailable(
                f"{self.written} events were written to {self._bootstrap}, and only {self._delivered_count} reported"
                " as taken: nobody knows of the others; write them again"
            )

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            self._failed.append(error)
        self._delivered_count += 1

    def _raise_failure(self) -> None:
        if self._failed:
            raise explain(self._failed[0], "writing events", self._bootstrap)


@dataclass(frozen=True, slots=True)
class Published:
    """One record of the score topic as a subscriber sees it; `value` None is a tombstone."""

    key: str
    value: bytes | None
    headers: Headers
    partition: int
    offset: int
    timestamp_ms: int


class ScoreReader:
    """A subscriber to an output topic (scores by default): committed records only, from the start, no group.

    `from_end`: only what comes from now on.
    """

    def __init__(self, config: Config, topic: str | None = None, from_end: bool = False) -> None:
        self._config, self._from_end = config, from_end
        self._topic = topic or config.topics.scores
        self._consumer = open_consumer(consumer_settings(config))
        self._ends: set[int] = set()
        try:
            found = self._consumer.list_topics(self._topic, timeout=CALL_S).topics[self._topic]
            if found.error is not None:
                raise explain(found.error, f"reading {self._topic}", config.kafka.bootstrap)
            self._partitions = sorted(found.partitions)
            self._consumer.assign([self._start(number) for number in self._partitions])
        except KafkaException as error:
            doing = f"reading {self._topic}"
            raise explain(error_of(error), doing, config.kafka.bootstrap) from None

    def read(self, timeout_s: float = 0.1, count: int = 1_000) -> list[Published]:
        """What came within the time, at most `count`; in offset order within a partition."""
        records = []
        messages: list[Any] = self._consumer.consume(count, timeout_s)
        for message in messages:
            error = message.error()
            if error is None:
                self._ends.discard(message.partition())
                records.append(_published(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                self._ends.add(message.partition())
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # the log's start moved meanwhile
                self._consumer.seek(self._start(message.partition()))
            elif is_denied(error):
                raise explain(error, f"reading {self._topic}", self._config.kafka.bootstrap)
        return records

    def read_to_end(self, timeout_s: float = 30.0) -> list[Published]:
        """Everything up to the present end of every partition (again on a later call: what is new)."""
        deadline = time.monotonic() + timeout_s
        records: list[Published] = []
        while len(self._ends) < len(self._partitions):
            if time.monotonic() > deadline:
                raise BrokerUnavailable(
                    f"{self._topic}: not at its end after {timeout_s:.0f} s at"
                    f" {self._config.kafka.bootstrap}"
                )
            records += self.read(0.02)
        return records

    def close(self) -> None:
        self._consumer.close()

    def _start(self, partition: int) -> TopicPartition:
        low, high = bounds(self._consumer, (self._topic, partition), self._config.kafka.bootstrap)
        return TopicPartition(self._topic, partition, high if self._from_end else low)


def _published(message: Any) -> Published:
    return Published(
        key=(message.key() or b"").decode(),
        value=message.value(),
        headers=tuple(message.headers() or ()),
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=message.timestamp()[1],
    )
