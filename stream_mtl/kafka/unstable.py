"""What nobody may read yet: a transaction of whoever writes there is open before it.

A reader of committed records comes to its end at such a transaction, and nothing is left to read: its lag is 0, though
the log goes on. Should the writer be dead and its coordinator have lost the transaction, it stays so until a person ends it.

It may be our own: Kafka on one node (4.3.1), killed between the acknowledgment of a commit and its markers, is leader of
nothing when it is back, takes the partitions for deleted, and calls the transaction complete without a marker. A start does
not see that cut and would make it once more; and the next marker of ours in a partition ends both, so that both would show.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from stream_mtl.config import Config
from stream_mtl.errors import BrokerUnavailable
from stream_mtl.kafka.bounds import bounds
from stream_mtl.kafka.faults import CALL_S, error_of, explain
from stream_mtl.kafka.ownership import Place
from stream_mtl.kafka.settings import consumer_settings, open_consumer

HANGS = (
    "a transaction that does not end, though its producer is gone: a broker that died lost its markers."
    " `kafka-transactions.sh find-hanging --broker-id ID --max-transaction-timeout 1` names it in every partition, `abort`"
    " ends it there; the worker goes on from where the ledger ends then"
)
_ASK_S = 2.0  # the main loop waits
_MOVES_S = 2.0  # in which a transaction of a cut has ended


class Unstable(NamedTuple):
    """The end of what may be read of a partition."""

    stable: int  # the offset before which everything is decided
    offsets: int  # in the log from there on


def unstable(client: Consumer, ends: Mapping[Place, int]) -> dict[Place, Unstable]:
    """Of partitions that are read to their ends, those whose log goes on behind them.

    Costs a request for every partition of which fetches told that it is longer: it may have grown since its end was told.
    Raises KafkaException at the first that is not answered: one wait, not one a partition.
    """
    found = {}
    for place, end in ends.items():
        partition = TopicPartition(*place)
        _, high = client.get_watermark_offsets(partition, cached=True)
        if high <= end:
            continue
        _, stable = client.get_watermark_offsets(partition, timeout=_ASK_S)
        if stable <= end:
            found[place] = Unstable(end, high - end)
    return found


def require_visible(config: Config) -> None:
    """To be asked when no transaction of ours can be open. Raises BrokerUnavailable where an output ends behind one.

    One of somebody else who writes there as well ends by itself: what may be read moves on while we wait.
    """
    topics = config.topics
    settings = consumer_settings(config)
    committed = open_consumer(settings)
    everything = open_consumer({**settings, "isolation.level": "read_uncommitted"})

    def look(places: Iterable[Place]) -> dict[Place, Unstable]:
        found = {}
        for place in places:
            _, stable = bounds(committed, place, config.kafka.bootstrap, known=True)
            _, end = bounds(everything, place, config.kafka.bootstrap, known=True)
            if stable < end:
                found[place] = Unstable(stable, end - stable)
        return found

    try:
        outputs = (topics.ledger, topics.scores, topics.dlq, topics.acks)
        found = look([p for topic in outputs for p in _places(committed, topic, config)])
        deadline = time.monotonic() + _MOVES_S
        while found and time.monotonic() < deadline:
            time.sleep(0.1)
            now = look(found)
            found = {p: one for p, one in now.items() if one.stable == found[p].stable}
    finally:
        committed.close()
        everything.close()
    for (topic, number), one in found.items():
        raise BrokerUnavailable(
            f"{topic}[{number}] at {config.kafka.bootstrap}: from {one.stable} on it is hidden by {HANGS}"
        )


def _places(client: Consumer, topic: str, config: Config) -> list[Place]:
    try:
        partitions = client.list_topics(topic, timeout=CALL_S).topics[topic].partitions
    except KafkaException as error:
        raise explain(error_of(error), f"locating {topic}", config.kafka.bootstrap) from None
    return [(topic, number) for number in sorted(partitions)]
