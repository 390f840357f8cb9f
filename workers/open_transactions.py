"""Tells of records that wait behind a transaction which their writer has left open."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from stream_mtl.kafka.unstable import Unstable
from stream_mtl.ledger import Partition
from workers.observer import Observer

# Twice the time-out that producers have by default: one that lives has ended it, or its coordinator has.
_HANGING_S = 120.0
_LOG = logging.getLogger(__name__)


class OpenTransactions:
    """Each topic's most records and longest time go to the observer; a transaction that hangs is named once in the log.

    Writers that commit without a pause have one open at nearly every look, but never the same: the stable offset moves.
    """

    def __init__(self, observer: Observer, topics: Iterable[str]) -> None:
        """Of all `topics` the first look tells: the worker before this one, cut off, may have left a number there."""
        self._observer = observer
        self._told = set(topics)  # of which something was told that may have ended
        self._since: dict[tuple[Partition, int], float] = {}  # partition and stable offset
        self._named: set[tuple[Partition, int]] = set()

    def look(self, found: Mapping[Partition, Unstable], now: float) -> None:
        """What `Source.unstable` says; `now` is monotonic, in seconds."""
        open_now = [(place, one.stable) for place, one in found.items()]
        self._since = {key: self._since.get(key, now) for key in open_now}
        self._named &= self._since.keys()
        self._tell(found, now)
        for key, since in self._since.items():
            if now - since >= _HANGING_S and key not in self._named:
                self._named.add(key)
                _LOG.warning(
                    "%s has kept open for %.0f s; nobody can read them before it ends."
                    " `kafka-transactions.sh find-hanging` names it, its `abort` ends it",
                    _waiting(key[0], found[key[0]]),
                    now - since,
                )

    def _tell(self, found: Mapping[Partition, Unstable], now: float) -> None:
        topics = {topic for topic, _ in found}
        for topic in sorted(self._told | topics):
            here = {place: one for place, one in found.items() if place[0] == topic}
            self._observer.trouble(
                "unstable",
                topic=topic,
                offsets=max((one.offsets for one in here.values()), default=0),
                seconds=max(
                    (now - self._since[place, one.stable] for place, one in here.items()),
                    default=0.0,
                ),
            )
        self._told = topics

    def leave(self, found: Mapping[Partition, Unstable]) -> None:
        """The worker ends at what may be read: says what it leaves there."""
        for place, one in found.items():
            _LOG.warning("%s still has open; they were not read", _waiting(place, one))


def _waiting(place: Partition, one: Unstable) -> str:
    topic, partition = place
    return (
        f"{topic}[{partition}]: {one.offsets} offsets from {one.stable} on wait behind a transaction that whoever writes"
        " there"
    )
