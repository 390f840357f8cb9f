"""Where a partition begins and ends, asked of a broker that is away or only just back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from stream_mtl.errors import BrokerUnavailable, ConfigError
from stream_mtl.kafka import bounds as module
from stream_mtl.kafka.bounds import bounds

PLACE = ("shop.events", 1)


class Doubting:
    """A consumer that believes the first few times that the partition is missing."""

    def __init__(self, times: int, listed: KafkaError | int) -> None:
        self._times, self._listed = times, listed

    def get_watermark_offsets(self, place: Any, timeout: float) -> tuple[int, int]:
        self._times -= 1
        if self._times >= 0:
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
        return 3, 7

    def list_topics(self, topic: str, timeout: float) -> Any:
        if isinstance(self._listed, KafkaError):
            raise KafkaException(self._listed)
        found = SimpleNamespace(error=None, partitions=dict.fromkeys(range(self._listed)))
        return SimpleNamespace(topics={topic: found})


def asked(consumer: Doubting, known: bool = False) -> tuple[int, int]:
    return bounds(cast(Consumer, consumer), PLACE, "broker:9092", known)


def test_a_broker_that_comes_back_may_not_know_its_topics_yet() -> None:
    assert asked(Doubting(2, listed=0), known=True) == (3, 7)


def test_a_known_topic_that_stays_away_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETURN_S", 0.2)
    with pytest.raises(ConfigError, match=r"shop\.events\[1\]: no such topic"):
        asked(Doubting(1_000, listed=0), known=True)


@pytest.mark.parametrize("partitions", [0, 1])
def test_a_partition_that_nobody_has_seen_is_missing_at_once(partitions: int) -> None:
    with pytest.raises(ConfigError, match=r"shop\.events\[1\]: no such topic"):
        asked(Doubting(1, listed=partitions))


@pytest.mark.parametrize("known", [True, False])
def test_a_partition_is_not_missing_because_its_broker_is_away(known: bool) -> None:
    """librdkafka tells an unknown partition at once then; the worker ended with a wrong configuration."""
    with pytest.raises(BrokerUnavailable, match="is the broker up"):
        asked(Doubting(1_000, listed=KafkaError(KafkaError._TRANSPORT)), known)


def test_a_client_that_does_not_know_a_partition_of_the_broker_yet_is_asked_again() -> None:
    assert asked(Doubting(2, listed=2)) == (3, 7)
