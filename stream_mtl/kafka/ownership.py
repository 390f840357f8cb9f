"""Which partitions a rank reads. Static: no group decides, so no rebalance comes in the middle of a fold."""

from __future__ import annotations

from collections.abc import Mapping

from stream_mtl.config import Config

Place = tuple[str, int]  # topic, partition


def owned(config: Config, partitions: Mapping[str, int], rank: int, ranks: int) -> list[Place]:
    """Rank r of n reads partition p of the event topics where p mod n = r; items and control whole.

    Since event topics are co-partitioned, a user's records of all of them meet in one rank.
    """
    mine = [
        (topic, number)
        for topic in config.topics.events
        for number in range(partitions[topic])
        if number % ranks == rank
    ]
    whole = [
        (topic, number)
        for topic in (config.topics.items, config.topics.control)
        for number in range(partitions[topic])
    ]
    return sorted(mine + whole)
