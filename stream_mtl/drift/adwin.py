"""ADWIN2, adaptive windowing (Bifet and Gavaldà, SDM 2007), with river's constants.

A window that grows while its parts agree, and loses its oldest part when any two parts' means differ by more
than chance allows. It is kept in buckets of 1, 2, 4, ... numbers, at most `max_buckets` of each size, so memory
and a check cost the logarithm of its length. Variances merge as in Babcock et al. (PODS 2003).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

_KEPT = ("drift", "rose", "_width", "_total", "_squares", "_seen")
Bucket = list[float]  # total, sum of squared deviations


class Adwin:
    """`delta`: significance (`tests` divides it); a check every `clock` numbers, once there are more than
    `grace_period`, of parts that are at least `min_window_length` long."""

    binary: ClassVar[bool] = False
    warning = False

    def __init__(
        self,
        tests: int = 1,
        delta: float = 0.002,
        clock: int = 32,
        max_buckets: int = 5,
        min_window_length: int = 5,
        grace_period: int = 10,
    ) -> None:
        self._delta, self._clock, self._max = delta / tests, clock, max_buckets
        self._least, self._grace = min_window_length, grace_period
        self.rose = False
        self._start()

    def _start(self) -> None:
        self.drift = False
        self._width = self._seen = 0
        self._total = self._squares = 0.0
        self._rows: list[list[Bucket]] = [[]]  # [r]: buckets of 2^r numbers, the oldest first

    @property
    def mean(self) -> float:
        """Of the window; 0 of an empty one."""
        return self._total / self._width if self._width else 0.0

    def update(self, value: float) -> None:
        if self.drift:
            self._start()
        self._insert(value)
        self._seen += 1
        if self._seen % self._clock == 0 and self._width > self._grace:
            before = self.mean
            while self._parts_differ():
                self._drop_oldest()
                self.drift = True
            if self.drift:
                self.rose = self.mean > before

    def _insert(self, value: float) -> None:
        if self._width:
            deviation = value - self._total / self._width
            self._squares += self._width * deviation * deviation / (self._width + 1)
        self._width += 1
        self._total += value
        self._rows[0].append([value, 0.0])
        self._compress()

    def _compress(self) -> None:
        """The two oldest of a row that is over-full become one of the next."""
        for row, buckets in enumerate(self._rows):
            if len(buckets) <= self._max:
                return
            (total, squares), (other_total, other_squares) = buckets[:2]
            apart = (total - other_total) / 2**row
            merged = [
                total + other_total,
                squares + other_squares + 2**row * 0.5 * apart * apart,
            ]
            del buckets[:2]
            if row + 1 == len(self._rows):
                self._rows.append([])
            self._rows[row + 1].append(merged)

    def _drop_oldest(self) -> None:
        total, squares = self._rows[-1].pop(0)
        size = 2 ** (len(self._rows) - 1)
        if not self._rows[-1] and len(self._rows) > 1:
            self._rows.pop()
        self._width -= size
        self._total -= total
        apart = total / size - self.mean
        self._squares -= squares + size * self._width * apart * apart / (size + self._width)

    def _cuts(self) -> Iterator[tuple[int, float]]:
        """Length and total of every older part that ends at a bucket."""
        length, total = 0, 0.0
        for row in range(len(self._rows) - 1, -1, -1):
            for bucket in self._rows[row]:
                length += 2**row
                total += bucket[0]
                yield length, total

    def _parts_differ(self) -> bool:
        if self._width < 2 * self._least:
            return False
        significance = math.log(2 * math.log(self._width) / self._delta)
        variance = (
            2 * max(self._squares, 0.0) / self._width * significance
        )  # rounding may go below 0
        for older, total in self._cuts():
            newer = self._width - older
            if older < self._least or newer < self._least:
                continue
            mean_gap = abs(total / older - (self._total - total) / newer)
            share = 1 / (older - self._least + 1) + 1 / (newer - self._least + 1)
            if mean_gap > math.sqrt(variance * share) + 2 / 3 * significance * share:
                return True
        return False

    def state(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in _KEPT}
        return kept | {"rows": [[list(bucket) for bucket in row] for row in self._rows]}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name in _KEPT:
            setattr(self, name, state[name])
        self._rows = [[list(bucket) for bucket in row] for row in state["rows"]]
