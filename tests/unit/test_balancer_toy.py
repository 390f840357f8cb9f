"""The two-objective problem of FAMO's paper, ten times faster than published (rate 1e-2, 4,000 steps instead of 1e-3, 50,000)."""

from __future__ import annotations

from torch import Tensor

from benchmarks.balancer_toy import STARTS, descend

STEPS, RATE = 4_000, 1e-2


def in_the_bowl(x_S2: Tensor) -> list[bool]:
    """Below the valley and between the ends of the front: what is left is a walk straight down to it."""
    return [x2 < -6 and abs(x1) <= 7 for x1, x2 in x_S2.tolist()]


def test_plain_adam_stays_in_the_valley_from_one_start_of_five() -> None:
    end_S2 = descend("sum", STEPS, RATE)
    assert in_the_bowl(end_S2) == [True, True, False, True, True]
    assert end_S2[2, 1] > 2


def test_famo_comes_down_to_the_front_from_all_five() -> None:
    assert in_the_bowl(descend("famo", STEPS, RATE, STARTS)) == [True] * 5
