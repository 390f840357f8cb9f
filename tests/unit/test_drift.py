"""Drift detectors against river's own, number by number."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import drift as river
from river.drift.binary import DDM
from scipy.stats import ks_2samp

from stream_mtl.drift.adwin import Adwin
from stream_mtl.drift.base import Detector
from stream_mtl.drift.ddm import Ddm
from stream_mtl.drift.kswin import Draw, Kswin, critical_distance, ks_distance
from stream_mtl.drift.page_hinkley import PageHinkley

# segments of a stream: (mean, standard deviation, length)
SEGMENTS = st.lists(
    st.tuples(st.floats(-3, 3), st.floats(0, 2), st.integers(1, 400)), min_size=1, max_size=6
)


def ours(detector: Detector, numbers: Sequence[float]) -> list[tuple[int, str]]:
    found = []
    for place, number in enumerate(numbers):
        detector.update(number)
        found += [(place, kind) for kind in ("drift", "warning") if getattr(detector, kind)]
    return found


def theirs(detector: object, numbers: Sequence[float]) -> list[tuple[int, str]]:
    found = []
    for place, number in enumerate(numbers):
        detector.update(number)  # type: ignore[attr-defined]
        found += [
            (place, kind)
            for kind in ("drift", "warning")
            if getattr(detector, f"{kind}_detected", False)
        ]
    return found


def numbers_of(segments: Sequence[tuple[float, float, int]], seed: int) -> list[float]:
    generator = np.random.default_rng(seed)
    return [x for mean, sd, n in segments for x in generator.normal(mean, sd, n).tolist()]


def as_river(seed: int) -> Draw:
    """River's own draws: a generator that starts again after an alarm."""
    generator = [random.Random(seed)]

    def draw(of: int, count: int, test: int) -> Sequence[int]:
        if test == 0:
            generator[0] = random.Random(seed)
        return generator[0].sample(range(of), count)

    return draw


def printed() -> list[int]:
    """The stream of river's documented examples."""
    generator = random.Random(12345)
    return generator.choices([0, 1], k=1000) + generator.choices(range(4, 8), k=1000)


def test_alarms_are_where_rivers_documentation_prints_them() -> None:
    assert ours(Adwin(), printed()) == [(1023, "drift")]
    assert ours(PageHinkley(), printed()) == [(1006, "drift")]
    assert ours(Kswin(alpha=0.0001, draw=as_river(42)), printed()) == [(1016, "drift")]


def test_ddm_warns_and_alarms_where_rivers_documentation_prints_it() -> None:
    generator = random.Random(42)
    numbers = generator.choices([0, 1], k=1000)
    numbers += generator.choices([0, 1], k=1000, weights=[0.3, 0.7])
    found = ours(Ddm(), numbers)
    drift = found.index((1334, "drift"))
    assert found[0] == (1084, "warning")
    assert [kind for _, kind in found].count("drift") == 1
    assert found[drift + 1] == (1492, "warning")


@settings(max_examples=150, deadline=None)
@given(SEGMENTS, st.integers(0, 10_000))
def test_adwin_alarms_where_rivers_does(
    segments: list[tuple[float, float, int]], seed: int
) -> None:
    numbers = numbers_of(segments, seed)
    assert ours(Adwin(), numbers) == theirs(river.ADWIN(), numbers)


@settings(max_examples=80, deadline=None)
@given(
    SEGMENTS,
    st.integers(0, 10_000),
    st.sampled_from([0.5, 0.05, 1e-4]),
    st.integers(1, 40),
    st.integers(2, 9),
    st.integers(1, 20),
)
def test_adwin_alarms_where_rivers_does_with_any_settings(
    segments: list[tuple[float, float, int]],
    seed: int,
    delta: float,
    clock: int,
    buckets: int,
    least: int,
) -> None:
    numbers, given_ = numbers_of(segments, seed), (delta, clock, buckets, least, 30)
    names = ("delta", "clock", "max_buckets", "min_window_length", "grace_period")
    options = dict(zip(names, given_, strict=True))
    assert ours(Adwin(**options), numbers) == theirs(river.ADWIN(**options), numbers)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(SEGMENTS, st.integers(0, 10_000), st.sampled_from([50.0, 10.0, 3.0]))
def test_page_hinkley_alarms_where_rivers_does(
    segments: list[tuple[float, float, int]], seed: int, threshold: float
) -> None:
    numbers = numbers_of(segments, seed)
    expected = theirs(river.PageHinkley(threshold=threshold), numbers)
    assert ours(PageHinkley(threshold=threshold), numbers) == expected


@settings(max_examples=15, deadline=None)  # river's costs scipy's test a number
@given(SEGMENTS, st.integers(0, 10_000))
def test_kswin_alarms_where_rivers_does(
    segments: list[tuple[float, float, int]], seed: int
) -> None:
    numbers = [round(x, 1) for x in numbers_of(segments, seed)][:600]  # with ties
    expected = theirs(river.KSWIN(seed=seed), numbers)
    assert ours(Kswin(draw=as_river(seed)), numbers) == expected


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 400)), max_size=6), st.integers(0, 10**4))
def test_ddm_alarms_where_rivers_does(segments: list[tuple[float, int]], seed: int) -> None:
    generator = np.random.default_rng(seed)
    errors = [int(x) for rate, n in segments for x in generator.random(n) < rate]
    assert ours(Ddm(), errors) == theirs(DDM(), errors)


@pytest.mark.filterwarnings("ignore:ks_2samp:RuntimeWarning")  # where p is 1
@pytest.mark.parametrize("alpha", [0.05, 0.005, 1e-4])
def test_the_critical_distance_is_that_of_scipys_exact_test(alpha: float) -> None:
    """The least distance whose p is at most alpha."""
    for size in (5, 30, 50):
        critical = critical_distance(size, alpha)
        base = np.arange(size, dtype=float)
        for distance in range(1, size + 1):
            moved = np.concatenate((base[distance:], base[:distance] + size))
            assert ks_distance(base.tolist(), moved.tolist()) == distance
            p = ks_2samp(base, moved, method="auto").pvalue
            assert (distance >= critical) == (p <= alpha)


def test_kswin_sees_a_change_that_leaves_the_mean() -> None:
    """And ADWIN, which compares means, does not."""
    generator = np.random.default_rng(0)
    skewed = np.where(generator.random(500) < 0.9, -0.1, 0.9)
    numbers = [*generator.normal(0, 0.02, 500).tolist(), *skewed.tolist()]
    assert next(place for place, _ in ours(Kswin(alpha=1e-4), numbers)) in range(500, 560)
    assert not ours(Adwin(tests=10), numbers)


def test_ddm_refuses_what_is_no_error() -> None:
    with pytest.raises(ValueError, match=r"0\.3"):
        Ddm().update(0.3)
