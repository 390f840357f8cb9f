"""Every measure keeps what `measures/base.py` promises."""

from __future__ import annotations

import pkgutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from stream_mtl import measures
from stream_mtl.measures import MEASURES
from stream_mtl.measures.base import Judged, Measure, concat, judged
from stream_mtl.measures.fading import Fading
from stream_mtl.measures.window import Windowed

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
    assert Fading(measure, 0.9).value() is None
    assert Windowed(measure, 10).value() is None


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
def test_fading_is_the_sum_of_rows_weighted_by_age(measure: Measure, name: str) -> None:
    """S_i = a S_(i-1) + s_i, in whatever pieces rows come; users and lists whole."""
    said, fading = rows(name), Fading(measure, 0.99)
    age_N = np.arange(len(said))[::-1]
    for start in range(0, len(said), 7 * LIST):
        fading.add(said.rows(slice(start, start + 7 * LIST)))
    expected = measure.over(replace(said, weight_N=0.99**age_N))
    assert fading.value() == pytest.approx(expected, abs=COARSE.get(name, 1e-9))


@pytest.mark.parametrize("measure,name", CASES)
def test_a_window_is_its_newest_rows_exactly(measure: Measure, name: str) -> None:
    said, window = rows(name), Windowed(measure, 100)
    for start in range(0, len(said), LIST):
        window.add(said.rows(slice(start, start + LIST)))
    assert window.value() == measure.over(said.rows(slice(200, None)))


@pytest.mark.parametrize("form", ["fading", "windowed"])
@pytest.mark.parametrize("measure,name", CASES)
def test_restored_it_goes_on_bit_for_bit(measure: Measure, name: str, form: str) -> None:
    def new() -> Fading | Windowed:
        return Fading(measure, 0.99) if form == "fading" else Windowed(measure, 100)

    one, other = new(), new()
    one.add(rows(name, 130, seed=1))
    saved = {key: value.clone() for key, value in one.state().items()}
    other.add(rows(name, 60, seed=9))
    other.restore(saved)
    for each in (one, other):
        each.add(rows(name, 85, seed=2))
    assert one.value() == other.value()
    assert one.state().keys() == other.state().keys()
    assert all(torch.equal(value, other.state()[key]) for key, value in one.state().items())


def test_every_file_is_registered() -> None:
    files = {module.name for module in pkgutil.iter_modules(measures.__path__)}
    assert files - {"base", "classes", "fading", "window"} == set(MEASURES)
    assert list(MEASURES) == sorted(MEASURES)
