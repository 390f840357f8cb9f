"""Every measure keeps what `measures/base.py` promises."""

from __future__ import annotations

import pkgutil
from dataclasses import replace

import numpy as np
import pytest

from stream_mtl import measures
from stream_mtl.measures import MEASURES
from stream_mtl.measures.base import Judged, Measure, concat, judged

CASES = [pytest.param(measure, name, id=name) for name, measure in MEASURES.items()]
CLASSES = {"accuracy", "f1", "macro_f1"}
COARSE = {"auc": 1e-3, "ece": 2e-3}  # whose sums are histograms
LIST = 5
WHOLE_LISTS = {"gauc", "ndcg"}


def rows(name: str, count: int = 300, seed: int = 0) -> Judged:
    """Lists of five, each with a positive and a negative among them."""
    random = np.random.default_rng(seed)
    group = np.arange(count) // LIST + 1_000 * seed
    if name in CLASSES:
        label = random.integers(0, 3, count)
        return judged(np.where(random.random(count) < 0.7, label, 2 - label), label, group)
    said = 1 / (1 + np.exp(-random.normal(-1, 1.5, count)))
    label = (random.random(count) < said).astype(float)
    label[::LIST], label[1::LIST] = 1.0, 0.0
    return judged(said, label, group, random.permutation(count))


@pytest.mark.parametrize("measure,name", CASES)
def test_nothing_judged_is_undefined(measure: Measure, name: str) -> None:
    empty = judged([], [])
    assert measure.over(empty) is None
    assert measure.value(measure.sums(empty)) is None


@pytest.mark.parametrize("measure,name", CASES)
def test_sums_of_two_sets_are_the_sums_of_both(measure: Measure, name: str) -> None:
    """So they merge over partitions; histograms are as near as their buckets are wide."""
    first, second = rows(name, seed=1), rows(name, seed=2)
    added = measure.value(measure.sums(first) + measure.sums(second))
    whole = measure.over(concat([first, second]))
    assert added == pytest.approx(whole, abs=COARSE.get(name, 1e-12))


@pytest.mark.parametrize("measure,name", CASES)
def test_a_weight_of_two_is_the_row_twice(measure: Measure, name: str) -> None:
    once = rows(name)
    weight_N = 1.0 + (once.group_N % 2)
    if name == "ndcg":  # a list twice is two lists
        twice = concat([once, once.rows(weight_N == 2)])
    else:
        twice = Judged(
            *(np.repeat(getattr(once, f), weight_N.astype(int)) for f in Judged.__slots__)
        )
    assert measure.over(replace(once, weight_N=weight_N)) == pytest.approx(measure.over(twice))


@pytest.mark.parametrize("measure,name", CASES)
def test_rows_of_which_nothing_was_said_are_not_judged(measure: Measure, name: str) -> None:
    said = rows(name)
    more = judged(
        [*said.said_N, np.nan], [*said.label_N, 1.0], [*said.group_N, 7], [*said.tie_N, 0]
    )
    assert measure.over(more) == measure.over(said)


@pytest.mark.parametrize("measure,name", CASES)
def test_sums_that_are_halved_are_those_of_rows_at_half_the_weight(
    measure: Measure, name: str
) -> None:
    """So old rows fade."""
    old, new = rows(name, seed=1), rows(name, seed=2)
    faded = measure.value(0.5 * measure.sums(old) + measure.sums(new))
    both = concat([replace(old, weight_N=0.5 * old.weight_N), new])
    coarse = {**COARSE, "ece": 5e-3}  # and its bins end between rows
    assert faded == pytest.approx(measure.over(both), abs=coarse.get(name, 1e-9))


def test_every_file_is_registered() -> None:
    files = {module.name for module in pkgutil.iter_modules(measures.__path__)}
    assert files - {"base", "classes"} == set(MEASURES)
    assert list(MEASURES) == sorted(MEASURES)
