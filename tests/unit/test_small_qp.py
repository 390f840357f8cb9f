"""The quadratic programs of the gradient balancers, by the conditions that a minimum must meet."""

from __future__ import annotations

import numpy as np
import pytest

from stream_mtl.small_qp import Floats, minimise


def problem(seed: int, size: int, rank: int) -> tuple[Floats, Floats]:
    """Inner products of `size` vectors in `rank` dimensions, trace 1, barely definite when rank < size."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(size, rank))
    products = vectors @ vectors.T
    return products / np.trace(products) + 1e-6 * np.eye(size), 0.3 * random.normal(size=size)


@pytest.mark.parametrize("total", [None, 1.0])
@pytest.mark.parametrize("size, rank", [(1, 1), (2, 1), (4, 8), (8, 3), (16, 16), (16, 2)])
def test_no_direction_from_the_minimum_leads_further_down(
    size: int, rank: int, total: float | None
) -> None:
    """Karush-Kuhn-Tucker: the slope is level over the free variables and not lower over those at 0."""
    for seed in range(25):
        quadratic, linear = problem(seed, size, rank)
        x = minimise(quadratic, linear, total)
        slope = quadratic @ x + linear
        level = slope[x > 0].mean() if total is not None else 0.0
        scale = 1e-8 * (1 + np.abs(x).max())
        assert (x >= 0).all()
        assert np.abs(slope[x > 0] - level).max(initial=0.0) < scale
        assert (slope[x == 0] >= level - scale).all()
        if total is not None:
            assert x.sum() == pytest.approx(total)


def test_equal_vectors_share_the_total() -> None:
    """Where nothing tells two variables apart, the answer does not either."""
    x = minimise(np.ones((2, 2)) + 1e-9 * np.eye(2), np.zeros(2), 1.0)
    assert x == pytest.approx([0.5, 0.5])
