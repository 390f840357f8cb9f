"""The guard of rehearsal: a small dose of `benchmarks.forgetting`, with the arm that must forget beside it."""

from __future__ import annotations

import pytest

from benchmarks.forgetting import CHANGING, Arm, fold, without_rehearsal
from stream_mtl import Config

SEED = 13  # of the benchmark's five the one whose domains pull the shared features apart most
SMALL = {  # no encoder and long cuts: enough to see who forgets, and quick
    "cut": {"file_span_ms": 900_000, "max_records": 20_000},
    "evaluation": {"probe_share": 0.15},
    **CHANGING,
}


@pytest.fixture(scope="module")
def arms() -> dict[str, Arm]:
    settings = {"on": SMALL, "off": without_rehearsal(SMALL)}
    return {name: fold(SEED, Config.model_validate(one)) for name, one in settings.items()}


# of the second domain, met by a model that knows something already
def test_rehearsal_keeps_a_domain_that_was_away(arms: dict[str, Arm]) -> None:
    """With rehearsal the returning domain loses little AUC, and far less than without."""
    assert arms["on"].each[1] < 1.5
    assert arms["on"].each[1] < arms["off"].each[1] - 4


def test_without_rehearsal_the_domain_is_forgotten(arms: dict[str, Arm]) -> None:
    """The naive arm shows that the stream does pull the shared features apart: the guard can fail."""
    assert arms["off"].each[1] > 5


def test_rehearsal_does_not_cost_the_domain_of_now(arms: dict[str, Arm]) -> None:
    assert arms["on"].now > arms["off"].now - 0.5
