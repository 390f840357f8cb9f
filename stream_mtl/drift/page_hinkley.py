"""Page-Hinkley test of a changed mean (Page, Biometrika 1954), both ways, as river has it.

Deviations from the running mean are summed, less a tolerance; an alarm is a sum that has moved too far from
its extreme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

_KEPT = ("drift", "rose", "_count", "_mean", "_up", "_down", "_lowest", "_highest")


class PageHinkley:
    """`delta`: change of the mean that is tolerated; `threshold`: how far a sum may move; `alpha`: fading.

    The numbers that a sum of standard deviation 1 takes to reach the threshold by chance grow as
    exp(2 delta threshold) (Siegmund, Sequential Analysis, 1985), so `tests` adds ln(tests) / (2 delta).
    """

    binary: ClassVar[bool] = False
    warning = False

    def __init__(
        self,
        tests: int = 1,
        min_instances: int = 30,
        delta: float = 0.005,
        threshold: float = 50.0,
        alpha: float = 0.9999,
    ) -> None:
        self._least, self._delta, self._alpha = min_instances, delta, alpha
        self._threshold = threshold + math.log(tests) / (2 * delta)
        self.drift = self.rose = False
        self._start()

    def _start(self) -> None:
        self.drift = False
        self._count, self._mean = 0, 0.0
        self._up = self._down = 0.0
        self._lowest, self._highest = math.inf, -1.0  # -1, not -inf, is river's

    def update(self, value: float) -> None:
        if self.drift:
            self._start()
        self._count += 1
        self._mean += (value - self._mean) / self._count
        deviation = value - self._mean
        self._up = self._alpha * self._up + deviation - self._delta
        self._down = self._alpha * self._down + deviation + self._delta
        self._lowest = min(self._lowest, self._up)
        self._highest = max(self._highest, self._down)
        if self._count >= self._least:
            rose = self._up - self._lowest > self._threshold
            self.drift = rose or self._highest - self._down > self._threshold
            if self.drift:
                self.rose = rose

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _KEPT}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name in _KEPT:
            setattr(self, name, state[name])
