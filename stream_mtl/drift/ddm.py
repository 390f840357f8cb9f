"""Drift Detection Method of a stream of errors (Gama et al., SBIA 2004).

A learner's error rate falls while the world stays as it is. An alarm is a rate that has risen so many
standard deviations over the lowest it ever was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, ClassVar

_KEPT = ("drift", "warning", "_count", "_rate", "_least_rate", "_least_deviation")


class Ddm:
    """Errors are 0 or 1. `tests` divides the tail beyond `drift_threshold` standard deviations."""

    binary: ClassVar[bool] = True
    rose = True  # it knows no other

    def __init__(
        self,
        tests: int = 1,
        warm_start: int = 30,
        warning_threshold: float = 2.0,
        drift_threshold: float = 3.0,
    ) -> None:
        self._warm_start = warm_start
        self._warning_at = _shared(warning_threshold, tests)
        self._drift_at = _shared(drift_threshold, tests)
        self._start()

    def _start(self) -> None:
        self.drift = self.warning = False
        self._count, self._rate = 0, 0.0
        self._least_rate = self._least_deviation = math.inf

    def update(self, value: float) -> None:
        """Raises ValueError for what is no error indicator."""
        if value not in (0, 1):
            raise ValueError(f"DDM takes errors, 0 or 1, and got {value!r}")
        if self.drift:
            self._start()
        self._count += 1
        self._rate += (value - self._rate) / self._count
        if self._count <= self._warm_start:
            return
        deviation = math.sqrt(self._rate * (1 - self._rate) / self._count)
        now = self._rate + deviation
        if now <= self._least_rate + self._least_deviation:
            self._least_rate, self._least_deviation = self._rate, deviation
        self.drift = now > self._least_rate + self._drift_at * self._least_deviation
        beyond = now > self._least_rate + self._warning_at * self._least_deviation
        self.warning = beyond and not self.drift

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _KEPT}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name in _KEPT:
            setattr(self, name, state[name])


def _shared(deviations: float, tests: int) -> float:
    """Standard deviations beyond which a normal tail is 1/tests of that beyond `deviations`."""
    if tests == 1:
        return deviations
    normal = NormalDist()
    return -normal.inv_cdf(normal.cdf(-deviations) / tests)
