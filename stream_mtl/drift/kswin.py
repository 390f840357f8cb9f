"""Kolmogorov-Smirnov windowing (Raab, Heusinger and Schleif, Neurocomputing 2020).

The newest numbers of a window against as many of its older ones, drawn by chance: it sees any change of the
distribution, also one that leaves the mean where it was.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import comb
from typing import Any, ClassVar

import numpy as np

from stream_mtl.hashing import mix64

Draw = Callable[[int, int, int], Sequence[int]]  # how many of, how many, tests done -> places


def hashed(seed: int) -> Draw:
    """Places drawn without replacement by a hash of (seed, test, place): nothing to be saved."""

    def draw(of: int, count: int, test: int) -> Sequence[int]:
        key_N = mix64(np.arange(of) + test * of, salt=seed)
        return [int(place) for place in np.argsort(key_N)[:count]]

    return draw


class Kswin:
    """`alpha`: significance of one test (`tests` divides it); `window_size`, of which `stat_size` are new.

    Deviation from river: places are drawn by a hash instead of a generator; `draw` can be given.
    """

    binary: ClassVar[bool] = False
    warning = False

    def __init__(
        self,
        tests: int = 1,
        alpha: float = 0.005,
        window_size: int = 100,
        stat_size: int = 30,
        draw: Draw | None = None,
    ) -> None:
        if not 0 < stat_size <= window_size - stat_size:
            raise ValueError("stat_size must be above 0 and at most half of window_size")
        self._new, self._old = stat_size, window_size - stat_size
        self._critical = critical_distance(stat_size, alpha / tests)
        self._draw = draw or hashed(0)
        self._window: deque[float] = deque(maxlen=window_size)
        self._tests = 0
        self.drift = self.rose = False

    def update(self, value: float) -> None:
        if self.drift:  # river's starts afresh as a whole
            self._window.clear()
            self._tests, self.drift = 0, False
        self._window.append(value)
        if len(self._window) < self._old + self._new:
            return
        places = self._draw(self._old, self._new, self._tests)
        self._tests += 1
        window = list(self._window)
        older, newer = [window[place] for place in places], window[self._old :]
        distance = ks_distance(older, newer)
        self.drift = distance >= self._critical and distance > 0.1 * self._new
        if self.drift:
            self.rose = sum(newer) > sum(older)

    def state(self) -> dict[str, Any]:
        return {
            "drift": self.drift,
            "rose": self.rose,
            "tests": self._tests,
            "window": list(self._window),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.drift, self.rose, self._tests = state["drift"], state["rose"], state["tests"]
        self._window.clear()
        self._window.extend(state["window"])


def ks_distance(one: Sequence[float], other: Sequence[float]) -> int:
    """Greatest difference of the two cumulative counts."""
    one, other = sorted(one), sorted(other)
    return max(abs(bisect_right(one, v) - bisect_right(other, v)) for v in (*one, *other))


def critical_distance(size: int, alpha: float) -> int:
    """Least distance of two samples of `size` that chance exceeds or reaches with at most `alpha`.

    Exact (Gnedenko and Korolyuk 1951): P(D >= h) = 2 Σ_{k>=1} (-1)^(k-1) C(2n, n - kh) / C(2n, n), the p of
    scipy's ks_2samp for equal sizes. `size` + 1, which no distance reaches, where even a full one is likelier.
    """
    whole = comb(2 * size, size)
    for distance in range(1, size + 1):
        steps = range(1, size // distance + 1)
        paths = 2 * sum((-1) ** (k - 1) * comb(2 * size, size - k * distance) for k in steps)
        if paths / whole <= alpha:
            return distance
    return size + 1
