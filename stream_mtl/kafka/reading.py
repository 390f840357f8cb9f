"""A topic read whole, as it stands: dead letters, for a person who asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream_mtl.config import Config
from stream_mtl.cut import Record
from stream_mtl.errors import BrokerUnavailable, RecordMissing, StorageError
from stream_mtl.kafka.bounds import bounds
from stream_mtl.kafka.faults import CALL_S, damaged, error_of, explain, is_damaged, is_denied
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
    """One record by its place. Raises RecordMissing when nothing is there."""
    consumer = open_consumer(consumer_settings(config))
    try:
        held = _bounds(consumer, config, topic)
        low, high = held.get(partition, (0, 0))
        if not low <= offset < high:
            there = f"holds offsets {low} to {high - 1}" if high > low else "is empty"
            filled = sorted(number for number, (first, stop) in held.items() if stop > first)
            raise RecordMissing(
                f"no record at offset {offset} of {topic}: partition {partition} {there};"
                f" partitions with records: {filled}"
            )
        found = next(_records(consumer, config, topic, {partition: (offset, offset + 1)}), None)
    finally:
        consumer.close()
    if found is None or found.offset != offset:
        raise RecordMissing(
            f"{topic}[{partition}] has no record at offset {offset} (a marker, or gone)"
        )
    return found


def _bounds(consumer: Consumer, config: Config, topic: str) -> dict[int, tuple[int, int]]:
    """Partition -> first offset held and the one after the last."""
    try:
        found = consumer.list_topics(topic, timeout=CALL_S).topics[topic]
        if found.error is not None:
            raise explain(found.error, f"reading {topic}", config.kafka.bootstrap)
    except KafkaException as error:
        raise explain(error_of(error), f"reading {topic}", config.kafka.bootstrap) from None
    bootstrap = config.kafka.bootstrap
    return {n: bounds(consumer, (topic, n), bootstrap) for n in sorted(found.partitions)}


def _records(
    consumer: Consumer, config: Config, topic: str, held: dict[int, tuple[int, int]]
) -> Iterator[Record]:
    open_partitions = {number for number, (low, high) in held.items() if high > low}
    at = {number: low for number, (low, _) in held.items()}
    consumer.assign([TopicPartition(topic, n, at[n]) for n in sorted(open_partitions)])
    deadline = time.monotonic() + _PATIENCE_S
    while open_partitions:
        if time.monotonic() > deadline:
            raise BrokerUnavailable(
                f"reading {topic}: no answer for {_PATIENCE_S:.0f} s at {config.kafka.bootstrap}"
            )
        messages: list[Any] = consumer.consume(500, timeout=0.1)
        for message in messages:
            error, number = message.error(), message.partition()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    if message.offset() >= held[number][1]:
                        open_partitions.discard(number)
                    else:  # a new leader may show an earlier end for a moment: ask again
                        consumer.assign(
                            [TopicPartition(topic, n, at[n]) for n in sorted(open_partitions)]
                        )
                elif is_denied(error):
                    raise explain(error, f"reading {topic}", config.kafka.bootstrap)
                elif is_damaged(error):
                    raise StorageError(damaged(error, (topic, number), at[number]))
                continue
            deadline = time.monotonic() + _PATIENCE_S
            if number in open_partitions and message.offset() >= at[number]:
                yield _record(message)
                at[number] = message.offset() + 1
                if at[number] >= held[number][1]:
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
