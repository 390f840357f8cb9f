"""Where a partition begins and ends, asked of a broker that is only just back."""

from __future__ import annotations

from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from stream_mtl.errors import ConfigError
from stream_mtl.kafka.bounds import bounds


class Returning:
    """A consumer whose broker does not know its topics yet, the first few times."""

    def __init__(self, times: int) -> None:
        self._times = times

    def get_watermark_offsets(self, place: Any, timeout: float) -> tuple[int, int]:
        self._times -= 1
        if self._times >= 0:
            raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
        return 3, 7


def test_a_broker_that_comes_back_may_not_know_its_topics_yet() -> None:
    consumer = cast(Consumer, Returning(2))
    assert bounds(consumer, ("shop.events", 1), "broker:9092", known=True) == (3, 7)


def test_a_topic_that_nobody_has_seen_is_missing_at_once() -> None:
    with pytest.raises(ConfigError, match=r"shop\.events\[1\]: no such topic"):
        bounds(cast(Consumer, Returning(1)), ("shop.events", 1), "broker:9092")
