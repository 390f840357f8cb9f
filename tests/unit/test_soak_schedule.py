"""Schedules of faults: the same for the same seed, and cut down to what is needed to fail."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.soak.schedule import draw, shrink


def test_a_schedule_follows_from_its_seed() -> None:
    faults = ("kill", "freeze", "part")
    assert draw(7, faults, 20, 3.0) == draw(7, faults, 20, 3.0)
    assert draw(7, faults, 20, 3.0) != draw(8, faults, 20, 3.0)
    assert {one.fault for one in draw(7, faults, 50, 3.0)} == set(faults)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 24), st.data())
def test_what_is_left_is_what_is_needed(length: int, data: st.DataObject) -> None:
    """With enough runs only the faults remain without which nothing fails, in their order."""
    needed = data.draw(st.sets(st.integers(0, length - 1), min_size=1, max_size=3))
    left, runs = shrink(list(range(length)), lambda some: needed <= set(some), budget=10_000)
    assert left == sorted(needed)
    assert runs <= 10_000


def test_the_budget_of_runs_is_kept_and_what_is_left_still_fails() -> None:
    tried: list[int] = []

    def fails(some: Sequence[int]) -> bool:
        tried.append(1)
        return {3, 17} <= set(some)

    left, runs = shrink(list(range(32)), fails, budget=5)
    assert runs == len(tried) == 5
    assert {3, 17} <= set(left)
