"""A topic read whole, as it stands: dead letters, for a person who asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream_mtl.config import Config
from stream_mtl.cut import Record
from stream_mtl.errors import BrokerUnavailable, ConfigError
from stream_mtl.kafka.faults import CALL_S, error_of, explain, is_denied
from stream_mtl.kafka.settings import consumer_settings, open_consumer

_PATIENCE_S = 30.0  # without any news


def read_topic(config: Config, topic: str) -> Iterator[Record]:
    """All committed records of a topic up to its end, in the order of each partition.

    Raises ConfigError for a topic that does not exist, BrokerUnavailable when nobody answers.
    """
    consumer = open_consumer(consumer_settings(config))
    try:
        yield from _records(consumer, config, topic, _bounds(consumer, config, topic))
    finally:
        consumer.close()


def read_one(config: Config, topic: str, partition: int, offset: int) -> Record:
    """One record by its place. Raises ConfigError when nothing is there."""
    consumer = open_consumer(consumer_settings(config))
    try:
        bounds = _bounds(consumer, config, topic)
        low, high = bounds.get(partition, (0, 0))
        if not low <= offset < high:
            there = f"holds offsets {low} to {high - 1}" if high > low else "is empty"
            filled = sorted(number for number, (first, stop) in bounds.items() if stop > first)
            raise ConfigError(
                f"no record at offset {offset} of {topic}: partition {partition} {there};"
                f" partitions with records: {filled}"
            )
        found = next(_records(consumer, config, topic, {partition: (offset, offset + 1)}), None)
    finally:
        consumer.close()
    if found is None or found.offset != offset:
        raise ConfigError(
            f"{topic}[{partition}] has no record at offset {offset} (a marker, or gone)"
        )
    return found


def _bounds(consumer: Consumer, config: Config, topic: str) -> dict[int, tuple[int, int]]:
    """Partition -> first offset held and the one after the last."""
    try:
        found = consumer.list_topics(topic, timeout=CALL_S).topics[topic]
        if found.error is not None:
            raise explain(found.error, f"reading {topic}", config.kafka.bootstrap)
        return {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=CALL_S)
            for number in sorted(found.partitions)
        }
    except KafkaException as error:
        raise explain(error_of(error), f"reading {topic}", config.kafka.bootstrap) from None


def _records(
    consumer: Consumer, config: Config, topic: str, bounds: dict[int, tuple[int, int]]
) -> Iterator[Record]:
    open_partitions = {number for number, (low, high) in bounds.items() if high > low}
    consumer.assign([TopicPartition(topic, n, bounds[n][0]) for n in sorted(open_partitions)])
    deadline = time.monotonic() + _PATIENCE_S
    while open_partitions:
        if time.monotonic() > deadline:
            raise BrokerUnavailable(
                f"reading {topic}: no answer for {_PATIENCE_S:.0f} s at {config.kafka.bootstrap}"
            )
        messages: list[Any] = consumer.consume(500, timeout=0.1)
        for message in messages:
            deadline = time.monotonic() + _PATIENCE_S
            error, number = message.error(), message.partition()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    open_partitions.discard(number)
                elif is_denied(error):
                    raise explain(error, f"reading {topic}", config.kafka.bootstrap)
                continue
            if number in open_partitions:
                yield _record(message)
                if message.offset() + 1 >= bounds[number][1]:
                    open_partitions.discard(number)


def _record(message: Any) -> Record:
    return Record(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        key=message.key(),
        value=message.value(),
        timestamp_ms=message.timestamp()[1],
        headers=tuple(message.headers() or ()),
    )
