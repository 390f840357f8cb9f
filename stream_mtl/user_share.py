"""How much of a whole one user may be: of what was admitted lately at most a share.

Sums fade by half with every `half_life` units that are admitted, so "lately" is counted in units, not in
time: nothing here depends on how busy a shop is. A user may have up to

    max(least, share * total, FAIR * total / users)

of the faded total. The last term is for a small shop, where everybody is more than one in a hundred: nobody is
held back who has at most FAIR times what a user has on average. Many ids lower that mean, they cannot raise it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stream_mtl.state import State

FAIR = 2.0
_GONE = 0.5  # units: a user with less is forgotten
_SWEEPS = 16  # times in a half-life that the forgotten are looked for


class UserShare:
    """A pure function of what was offered, in order. Users are hashes; 0 is nobody and never held back."""

    def __init__(self, share: float, least: int, half_life: int) -> None:
        """`share` 1: everything is admitted and nothing kept."""
        self._share, self._least, self._half_life = share, least, half_life
        self._used: dict[int, tuple[float, int]] = {}  # user -> units, and the clock they were at
        self._total, self._clock, self._swept = 0.0, 0, 0

    @property
    def on(self) -> bool:
        return self._share < 1.0

    def admit(self, user: int, units: int = 1) -> bool:
        """Whether so many units more of this user stay within the share; then they are part of it."""
        if not self.on:
            return True
        used, at = self._used.get(user, (0.0, self._clock))
        used = used * self._fade(self._clock - at) + units
        if user and used > self.limit():
            return False
        self._used[user] = (used, self._clock)
        self._total = self._total * self._fade(units) + units
        self._clock += units
        if self._clock - self._swept >= max(1, self._half_life // _SWEEPS):
            self._sweep()
        return True

    def limit(self) -> float:
        """Units that one user may have of the faded total."""
        fair = FAIR * self._total / max(1, len(self._used))
        return max(float(self._least), self._share * self._total, fair)

    def _fade(self, units: int) -> float:
        faded: float = 0.5 ** (units / self._half_life)
        return faded

    def _sweep(self) -> None:
        self._swept = self._clock
        self._used = {
            user: (used, at)
            for user, (used, at) in self._used.items()
            if used * self._fade(self._clock - at) >= _GONE
        }

    def erase(self, user: int) -> None:
        """Forget what this user had; the total stays."""
        self._used.pop(user, None)

    def state(self) -> State:
        if not self.on:
            return {}
        return {
            "user": torch.tensor(list(self._used), dtype=torch.int64),
            "used": torch.tensor([u for u, _ in self._used.values()], dtype=torch.float64),
            "at": torch.tensor([at for _, at in self._used.values()], dtype=torch.int64),
            "total": self._total,
            "clock": self._clock,
            "swept": self._swept,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """What was saved while there was no limit begins from nothing."""
        if not self.on or "user" not in state:
            return
        used = zip(state["used"].tolist(), state["at"].tolist(), strict=True)
        self._used = dict(zip(state["user"].tolist(), used, strict=True))
        self._total = float(state["total"])
        self._clock, self._swept = int(state["clock"]), int(state["swept"])
