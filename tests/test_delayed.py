"""The guard of learning from late labels: one seed of `benchmarks.delayed`, with the arms that must do badly."""

from __future__ import annotations

import pytest

from benchmarks.delayed import compare

Found = dict[str, tuple[float, float, float]]


@pytest.fixture(scope="module")
def found() -> Found:
    """Per method (bias, NE, share of vanilla's distance to the oracle that it does away with)."""
    methods = ("vanilla", "window", "fnw", "es_dfm", "oracle")
    judged = compare(hours=144, an_hour=1_000, wait=0, seeds=1, methods=methods)
    return {method: rows[0] for method, rows in judged.items()}


def test_without_correction_the_rate_is_far_too_low(found: Found) -> None:
    assert found["vanilla"][0] < 0.9


@pytest.mark.parametrize("method", ["fnw", "es_dfm"])
def test_a_correction_takes_the_bias_away(found: Found, method: str) -> None:
    assert found[method][0] == pytest.approx(1, abs=0.06)


def test_es_dfm_closes_as_much_of_the_distance_to_the_oracle_as_in_its_paper(found: Found) -> None:
    """36 % of vanilla's distance (AUC on Criteo, table 1); waiting a day for true labels is worse than vanilla."""
    assert found["es_dfm"][2] > 0.36
    assert found["window"][2] < 0
