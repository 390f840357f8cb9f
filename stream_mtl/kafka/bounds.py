"""Where a partition begins and ends now: one request to the broker."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream_mtl.kafka.faults import CALL_S, error_of, explain, is_missing
from stream_mtl.kafka.ownership import Place

_RETURN_S = 20.0  # how long a topic that was there may be missing
# Leadership moves, most of all right after a topic was created or a broker came back.
_MOVING = {
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.REPLICA_NOT_AVAILABLE,
    KafkaError.UNKNOWN_LEADER_EPOCH,
}


def bounds(
    consumer: Consumer, place: Place, bootstrap: str, known: bool = False
) -> tuple[int, int]:
    """First offset held, and the one after the last stable record.

    `known`: the topic was there before, so that it is missing may pass: a broker that comes back answers before it
    has read which topics it has. Raises TopicMissing, BrokerUnavailable when nobody answers.
    """
    doing = f"locating {place[0]}[{place[1]}]"
    began = time.monotonic()
    while True:
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(*place), timeout=CALL_S)
            return low, high
        except KafkaException as error:
            fault = error_of(error)
        if is_missing(fault):
            fault = _asked(consumer, place, doing, bootstrap)
        wait_s = CALL_S if fault.code() in _MOVING else 0.0
        if known and is_missing(fault):
            wait_s = _RETURN_S
        if time.monotonic() - began >= wait_s:
            raise explain(fault, doing, bootstrap)
        time.sleep(0.05)


def _asked(consumer: Consumer, place: Place, doing: str, bootstrap: str) -> KafkaError:
    """What the broker says of a partition that the client believes to be missing.

    A consumer that has lost its broker believes so at once, of every partition. Raises BrokerUnavailable.
    """
    topic, partition = place
    try:
        found = consumer.list_topics(topic, timeout=CALL_S).topics[topic]
    except KafkaException as error:
        raise explain(error_of(error), doing, bootstrap) from None
    told: KafkaError | None = found.error
    if told is not None:
        return told
    there = partition in found.partitions
    return KafkaError(
        KafkaError.LEADER_NOT_AVAILABLE if there else KafkaError.UNKNOWN_TOPIC_OR_PART
    )
