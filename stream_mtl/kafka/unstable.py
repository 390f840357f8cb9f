"""What nobody may read yet: a transaction of whoever writes there is open before it.

A reader of committed records comes to its end at such a transaction, and nothing is left to read: its lag is 0, though
the log goes on. Should the writer be dead and its coordinator have lost the transaction, it stays so until a person ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, TopicPartition

from stream_mtl.kafka.ownership import Place

_ASK_S = 2.0  # the main loop waits


class Unstable(NamedTuple):
    """The end of what may be read of a partition."""

    stable: int  # the offset before which everything is decided
    offsets: int  # in the log from there on


def unstable(client: Consumer, ends: Mapping[Place, int]) -> dict[Place, Unstable]:
    """Of partitions that are read to their ends, those whose log goes on behind them.

    Costs a request for every partition of which fetches told that it is longer: it may have grown since its end was told.
    Where one is not answered the others are not asked.
    """
    found = {}
    for place, end in ends.items():
        partition = TopicPartition(*place)
        _, high = client.get_watermark_offsets(partition, cached=True)
        if high <= end:
            continue
        try:
            _, stable = client.get_watermark_offsets(partition, timeout=_ASK_S)
        except KafkaException:
            break  # nobody answers: one wait, not one a partition
        if stable <= end:
            found[place] = Unstable(end, high - end)
    return found
