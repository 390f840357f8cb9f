"""What was committed: the ledger topic read whole, and the group's offsets with their note."""

from __future__ import annotations

import time
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream_mtl.config import Config
from stream_mtl.errors import BrokerUnavailable, PositionLost, StorageError
from stream_mtl.kafka.bounds import bounds
from stream_mtl.kafka.faults import CALL_S, damaged, error_of, explain, is_damaged, is_denied
from stream_mtl.kafka.rights import explain_denial
from stream_mtl.kafka.settings import consumer_settings, group_id, open_consumer
from stream_mtl.kafka.topics import input_topics
from stream_mtl.kafka.unstable import HANGS

_PATIENCE_S = 25.0  # without any news: less than the main loop may be silent
_LOOK_BACK = 64  # offsets; a cut takes two, itself and the transaction's marker


def read_ledger(config: Config, from_offset: int | None = None) -> list[tuple[int, bytes]]:
    """(offset, record) of all committed cuts from an offset on, up to the end, oldest first.

    Complete: ends at the partition's end event, and never before the end that the broker told at the beginning (a new
    leader may show an earlier one for a moment). A transaction that is still open hides
    its record and those after it; `init_transactions` of the sink ends it, so read after that.
    Raises PositionLost when `from_offset` has expired, BrokerUnavailable when nobody answers.
    """
    consumer = open_consumer(consumer_settings(config))
    try:
        low, high = _bounds(consumer, config)
        return _read_to_end(consumer, config, low if from_offset is None else from_offset, high)
    finally:
        consumer.close()


def last_record(config: Config) -> tuple[int, bytes] | None:
    """The newest committed ledger record with its offset; None when the ledger is empty."""
    consumer = open_consumer(consumer_settings(config))
    try:
        low, high = _bounds(consumer, config)
        back = _LOOK_BACK
        while (
            True
        ):  # markers and aborted records take offsets, so look further back until one is found
            start = max(low, high - back)
            records = _read_to_end(consumer, config, start, high)
            if records:
                return records[-1]
            if start == low:
                return None
            back *= 8
    finally:
        consumer.close()


def committed_offsets(
    config: Config, timeout_s: float = CALL_S, overlook_open: bool = False
) -> dict[tuple[str, int], tuple[int, str]]:
    """(topic, partition) -> (offset, note) as the group has committed them; absent ones are left out.

    The ledger is the authority, this is the cross-check. `publication.noted_cut` reads the note. While a
    transaction with offsets is open the broker makes us wait for its end; with `overlook_open` it gives those
    from before. Raises BrokerUnavailable, ConfigError.
    """
    settings = consumer_settings(config)
    if overlook_open:
        settings = {**settings, "isolation.level": "read_uncommitted"}
    consumer = open_consumer(settings)
    try:
        wanted = []
        for topic in input_topics(config):
            found = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
            _require_answer(found.error, topic, config)
            wanted += [TopicPartition(topic, number) for number in found.partitions]
        committed = consumer.committed(wanted, timeout=3 * timeout_s)
    except KafkaException as error:
        fault = error_of(error)
        if fault.code() == KafkaError._TIMED_OUT and not overlook_open:
            committed_offsets(config, timeout_s, overlook_open=True)  # raises where nobody answers
            raise BrokerUnavailable(_withheld(config)) from None
        raise explain(fault, "reading committed offsets", config.kafka.bootstrap) from None
    finally:
        consumer.close()
    for one in committed:
        _require_answer(one.error, one.topic, config)
    return {
        (one.topic, one.partition): (one.offset, one.metadata or "")
        for one in committed
        if one.offset >= 0
    }


def _withheld(config: Config) -> str:
    return (
        f"reading committed offsets: {config.kafka.bootstrap} answers, and keeps those of {group_id(config)} back for"
        f" {HANGS}"
    )


def _require_answer(error: KafkaError | None, topic: str, config: Config) -> None:
    """What could not be said is not "nobody": who reads that fences his successor. A topic that was there and is
    missing is a broker that is only just back.
    """
    if error is None:
        return
    doing = f"reading committed offsets of {topic}"
    if is_denied(error):
        raise explain_denial(error, doing, config)
    raise BrokerUnavailable(f"{doing}: {error.name()} at {config.kafka.bootstrap}")


def _bounds(consumer: Consumer, config: Config) -> tuple[int, int]:
    return bounds(consumer, (config.topics.ledger, 0), config.kafka.bootstrap, known=True)


def _read_to_end(
    consumer: Consumer, config: Config, start: int, end: int
) -> list[tuple[int, bytes]]:
    """All records from `start` on, at least up to offset `end`."""
    topic, at = config.topics.ledger, start
    consumer.assign([TopicPartition(topic, 0, start)])
    records: list[tuple[int, bytes]] = []
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        messages: list[Any] = consumer.consume(1_000, timeout=0.02)
        for message in messages:
            error = message.error()
            if error is None:
                deadline = time.monotonic() + _PATIENCE_S
                at = message.offset() + 1
                records.append((message.offset(), message.value() or b""))
            elif error.code() == KafkaError._PARTITION_EOF:
                if message.offset() >= end:
                    return records
                consumer.assign([TopicPartition(topic, 0, at)])  # ask again
            elif is_damaged(error):
                raise StorageError(damaged(error, (topic, 0), at))
            elif is_denied(error):
                raise explain_denial(error, f"reading the ledger {topic}", config)
            elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                low, high = _bounds(consumer, config)
                raise PositionLost(
                    f"ledger {topic}: wanted offset {start}, it holds {low} to {high}; read from its"
                    " start, or use a newer checkpoint"
                )
    raise BrokerUnavailable(
        f"reading the ledger {topic}: no answer for {_PATIENCE_S:.0f} s at {config.kafka.bootstrap}"
    )
