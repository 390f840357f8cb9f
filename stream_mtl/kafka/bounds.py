"""Where a partition begins and ends now: one request to the broker."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream_mtl.kafka.faults import CALL_S, error_of, explain, is_missing
from stream_mtl.kafka.ownership import Place

# Leadership moves, most of all right after a topic was created or a broker came back.
_MOVING = {
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_LEADER_EPOCH,
}


def bounds(
    consumer: Consumer, place: Place, bootstrap: str, known: bool = False
) -> tuple[int, int]:
    """First offset held, and the one after the last stable record.

    `known`: the topic was there before, so that it is missing may pass: a broker that comes back answers before it
    has read which topics it has. Raises ConfigError for a missing topic, BrokerUnavailable when nobody answers.
    """
    deadline = time.monotonic() + CALL_S
    while True:
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(*place), timeout=CALL_S)
            return low, high
        except KafkaException as error:
            fault = error_of(error)
            passes = fault.code() in _MOVING or (known and is_missing(fault))
            if not passes or time.monotonic() > deadline:
                raise explain(fault, f"locating {place[0]}[{place[1]}]", bootstrap) from None
        time.sleep(0.05)
