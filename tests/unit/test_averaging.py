"""The served average of the dense parameters."""

from __future__ import annotations

import pytest
import torch

from stream_mtl.averaging import AveragedModel
from stream_mtl.errors import StateError
from stream_mtl.testing_rows import rows
from tests.unit.test_learner import learner


def test_the_average_is_that_of_the_textbook() -> None:
    """a = keep * a + (1 - keep) * w, keep = min(decay, n / (n + 10)), by hand in double precision."""
    live = torch.nn.Linear(1, 1, bias=False)
    average = AveragedModel(live, 0.9)  # type: ignore[arg-type]
    expected = float(live.weight.detach())
    for step in range(1, 200):
        with torch.no_grad():
            live.weight.fill_(float(step % 7))
        average.update(step, [True])
        keep = min(0.9, step / (step + 10))
        expected = keep * expected + (1 - keep) * (step % 7)
    assert float(average.state()["weight"]) == pytest.approx(expected, rel=1e-5)


def test_without_a_decay_the_newest_parameters_are_served_and_nothing_is_kept() -> None:
    live = torch.nn.Linear(1, 1)
    average = AveragedModel(live, 0.0)  # type: ignore[arg-type]
    assert average.served is live  # type: ignore[comparison-overlap]
    assert average.state() == {}


def test_the_served_model_is_smoother_than_the_newest() -> None:
    """With wild steps on labels of pure noise the average stays nearer to the base rate."""
    spread = {}
    for decay in (0.0, 0.995):
        model = learner(
            learner={"average": decay}, optimizer={"dense_lr": 0.05, "first_lr": 0.05}, seed=0
        )
        for i in range(60):
            model.step(rows(64, first=64 * i))
        spread[decay] = float(model.predict(rows(512)).logit_BC[:, 0].std())
    assert spread[0.995] < spread[0.0]


def test_a_state_of_another_width_is_refused() -> None:
    average = AveragedModel(torch.nn.Linear(2, 1), 0.9)  # type: ignore[arg-type]
    wider = AveragedModel(torch.nn.Linear(3, 1), 0.9)  # type: ignore[arg-type]
    with pytest.raises(StateError, match="averaged model"):
        average.restore(wider.state())
