"""Tells of records that wait behind a transaction which their writer has left open."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from stream_mtl.kafka.unstable import Unstable
from stream_mtl.ledger import Partition
from workers.observer import Observer

# Twice the time-out that producers have by default: one that lives has ended it, or its coordinator has.
_HANGING_S = 120.0
_LOG = logging.getLogger(__name__)


class OpenTransactions:
    """Each topic's worst partition goes to the observer; a transaction that hangs is named once in the log."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._told: dict[str, int] = {}  # topic -> offsets
        self._since: dict[tuple[Partition, int], float] = {}  # partition and stable offset
        self._named: set[tuple[Partition, int]] = set()

    def look(self, found: Mapping[Partition, Unstable], now: float) -> None:
        """What `Source.unstable` says; `now` is monotonic, in seconds."""
        worst = dict.fromkeys(self._told, 0)
        for (topic, _), one in found.items():
            worst[topic] = max(worst.get(topic, 0), one.offsets)
        for topic, offsets in worst.items():
            if offsets != self._told.get(topic, 0):
                self._observer.trouble("unstable", topic=topic, offsets=offsets)
        self._told = worst
        open_now = [(place, one.stable) for place, one in found.items()]
        self._since = {key: self._since.get(key, now) for key in open_now}
        self._named &= self._since.keys()
        for key, since in self._since.items():
            if now - since >= _HANGING_S and key not in self._named:
                self._named.add(key)
                _LOG.warning(
                    "%s has kept open for %.0f s; nobody can read them before it ends."
                    " `kafka-transactions.sh find-hanging` names it, its `abort` ends it",
                    _waiting(key[0], found[key[0]]),
                    now - since,
                )

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
