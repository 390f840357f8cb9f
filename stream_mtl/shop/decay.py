"""Forward decay: sums that fade by half a half-life without ever being touched.

An event at time t adds 2^((t - landmark) / half_life); read at time s, a sum is multiplied by
2^(-(s - landmark) / half_life). Order among sums never changes by fading alone, so top lists stay exact.
Source: Cormode et al., "Forward Decay" (ICDE 2009).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stream_mtl.shop.columns import Array


class Fading:
    """The common time base of sums with one half-life. `limit` half-lives fit between rebasings."""

    def __init__(self, half_life_ms: float, limit: float = 60.0) -> None:
        self.half_life_ms = half_life_ms
        self.limit = limit
        self.landmark_ms = 0
        self._now = (0, 0, np.float64(1.0))  # landmark, time and factor of the last single reading

    def rebase(self, time_ms: int) -> float:
        """What existing sums must be multiplied by before something at `time_ms` is added."""
        if self.landmark_ms == 0:
            self.landmark_ms = time_ms
            return 1.0
        ahead = (time_ms - self.landmark_ms) / self.half_life_ms
        if ahead <= self.limit:
            return 1.0
        self.landmark_ms = time_ms
        return float(2.0 ** -min(ahead, 1000.0))

    def weight(self, time_ms: Array) -> Array:
        """What an event adds (float64); long before the landmark it is nothing."""
        return np.exp2(np.maximum((time_ms - self.landmark_ms) / self.half_life_ms, -200.0))

    def at(self, time_ms: Array | int) -> Array:
        """The factor that turns a sum into its value at a time (float64)."""
        if isinstance(time_ms, int):
            return self._at_one(time_ms)  # type: ignore[no-any-return]  # a scalar array
        ahead = (np.asarray(time_ms) - self.landmark_ms) / self.half_life_ms
        return np.exp2(np.clip(-ahead, -200.0, 200.0))

    def _at_one(self, time_ms: int) -> Any:
        """`at` of one time, which is asked for again and again within a cut."""
        landmark_ms, then_ms, factor = self._now
        if (landmark_ms, then_ms) != (self.landmark_ms, time_ms):
            ahead = (time_ms - self.landmark_ms) / self.half_life_ms
            factor = np.exp2(np.clip(-ahead, -200.0, 200.0))
            self._now = (self.landmark_ms, time_ms, factor)
        return factor
