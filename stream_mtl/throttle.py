"""A token bucket a user: events faster than a person can act change nothing.

Between serde and join. What is left out is counted by type, in the ledger's counts and in a metric, not dead-lettered:
such records are well formed, and as many dead letters would be a second flood. The bucket is in event time, so a fold
over the same log leaves out the same events. An event older than the user's newest brings no new tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from stream_mtl.events import AnyEvent, Item, UserEvent
from stream_mtl.settings_defence import Defence
from stream_mtl.state import State

PREFIX = "throttled_"  # of the counts: and the type of the event, as on the wire
KINDS = tuple(re.sub(r"(?<!^)(?=[A-Z])", "_", one.__name__).lower() for one in UserEvent.__args__)
_KIND_OF = dict(zip(UserEvent.__args__, KINDS, strict=True))
_MINUTE = 60_000
_SWEEP = 10_000  # events between two looks for buckets that are full again


class Throttle:
    """`burst` tokens a user, refilled by `events_per_minute`; catalogue records pass."""

    def __init__(self, settings: Defence) -> None:
        self._burst = float(settings.burst)
        self._per_ms = settings.events_per_minute / _MINUTE
        self._spent: dict[str, tuple[float, int]] = {}  # tokens missing, and since when
        self._newest = self._since = 0

    def admit(self, events: Sequence[AnyEvent]) -> tuple[Sequence[AnyEvent], Counter[str]]:
        """Those within their user's bucket, in order; and how many others by `throttled_` and type."""
        left_out: Counter[str] = Counter()
        if not self._per_ms:
            return events, left_out
        kept: list[AnyEvent] = []
        for event in events:
            if isinstance(event, Item) or self._take(event.user_id, event.time_ms):
                kept.append(event)
            else:
                left_out[PREFIX + _KIND_OF[type(event)]] += 1
        self._since += len(events)
        if self._since >= _SWEEP:
            self._sweep()
        return kept, left_out

    def _take(self, user: str, time_ms: int) -> bool:
        spent, since = self._spent.get(user, (0.0, time_ms))
        if time_ms > since:
            spent, since = max(0.0, spent - (time_ms - since) * self._per_ms), time_ms
        self._newest = max(self._newest, time_ms)
        if spent + 1.0 > self._burst:
            self._spent[user] = (spent, since)
            return False
        self._spent[user] = (spent + 1.0, since)
        return True

    def _sweep(self) -> None:
        self._since = 0
        self._spent = {
            user: (spent, since)
            for user, (spent, since) in self._spent.items()
            if spent > (self._newest - since) * self._per_ms
        }

    def erase(self, user: str) -> None:
        self._spent.pop(user, None)

    def state(self) -> State:
        if not self._per_ms:
            return {}
        return {
            "spent": [[user, spent, since] for user, (spent, since) in self._spent.items()],
            "newest": self._newest,
            "since": self._since,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        if not self._per_ms or "spent" not in state:
            return
        self._spent = {user: (spent, since) for user, spent, since in state["spent"]}
        self._newest, self._since = int(state["newest"]), int(state["since"])
