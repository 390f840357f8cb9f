"""Faults at random, but the same ones for the same seed; and the shortest list that still fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True)
class Planned:
    """A fault, so many seconds after the one before it."""

    after_s: float
    fault: str


def draw(seed: int, faults: Sequence[str], count: int, longest_s: float) -> list[Planned]:
    """A schedule that depends on its arguments alone."""
    rng = np.random.default_rng(seed)
    return [
        Planned(
            round(float(rng.uniform(0.2, longest_s)), 2), faults[int(rng.integers(len(faults)))]
        )
        for _ in range(count)
    ]


def shrink(
    failing: Sequence[T], fails: Callable[[Sequence[T]], bool], budget: int
) -> tuple[list[T], int]:
    """A short list that still fails, and how many runs that took: delta debugging by complements.

    (Zeller and Hildebrandt, 2002, algorithm ddmin without the subset step: with few faults that act alone it
    rarely helps, and every run is a soak.) At most `budget` runs; what is left then may not be minimal.
    """
    left, parts, runs = list(failing), 2, 0
    while len(left) >= 2 and runs < budget:
        size = -(-len(left) // parts)
        for start in range(0, len(left), size):
            without = left[:start] + left[start + size :]
            runs += 1
            if fails(without):
                left, parts = without, max(parts - 1, 2)
                break
            if runs == budget:
                break
        else:
            if parts >= len(left):
                break
            parts = min(2 * parts, len(left))
    return left, runs
