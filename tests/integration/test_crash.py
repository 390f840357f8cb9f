"""A small dose of the crash benchmark: random kills of the worker, then of the broker under it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.crash import Round, figures, look
from stream_mtl.kafka.server import KafkaServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3_600)]

SETTINGS = ("cut.max_records=100", "model.experts=2", "model.hidden=32")


def test_random_kills_of_the_worker_lose_nothing_and_double_nothing(
    own_kafka: KafkaServer, tmp_path: Path
) -> None:
    """Each score once, a clean ledger, the digest of an undisturbed fold of the same ledger."""
    round_ = Round(own_kafka, tmp_path / "worker", SETTINGS)
    round_.simulate(4_000, seed=1)
    kills = round_.kill_at_random(3, np.random.default_rng(1), longest_s=12.0)
    summary = round_.finish()
    told = figures(look(round_, summary, kills), "worker", 4_000, kills)
    assert [figure for figure in told if figure.holds is False] == []
    assert kills > 0


def test_a_broker_that_dies_under_the_worker_costs_nothing(
    own_kafka: KafkaServer, tmp_path: Path
) -> None:
    """The same worker process goes on when the broker is back."""
    round_ = Round(own_kafka, tmp_path / "broker", SETTINGS)
    round_.simulate(4_000, seed=2)
    summary = round_.finish(broker_kills=1, rng=np.random.default_rng(2))
    told = figures(look(round_, summary, 1), "broker", 4_000, 1)
    assert [figure for figure in told if figure.holds is False] == []
