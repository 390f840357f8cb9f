"""The guard of rehearsal by accuracy: Split-MNIST in one pass, at the dose of `benchmarks.digits` but for two seeds.

A refactoring that loses what is remembered shows in nothing else: losses stay finite, and every contract holds.
"""

from __future__ import annotations

import pytest

from benchmarks.digits import ARMS, ours, split_mnist

SEEDS = (0, 1)


def accuracy(name: str) -> float:
    """Percent of all ten digits, after five tasks of two."""
    runs = [ours(ARMS[name], split_mnist(seed), seed).accuracy for seed in SEEDS]
    return sum(runs) / len(runs)


@pytest.mark.parametrize(
    "name, least",
    [("DER++", 82), ("ER", 77), ("ER-ACE", 78), ("ER class-balanced", 78), ("MIR", 80)],
)
def test_with_rehearsal_digits_of_earlier_tasks_are_still_read(name: str, least: int) -> None:
    assert accuracy(name) > least


def test_without_rehearsal_only_the_last_two_digits_are() -> None:
    """The naive arm shows that the stream does make a model forget: the guard can fail."""
    assert accuracy("fine-tune") < 25
