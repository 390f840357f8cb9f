"""What follows from a drift alarm and from forgetting, in the fold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stream_mtl import build
from stream_mtl.adaptation import Adaptation, adaptation, pulls_away
from stream_mtl.config import Adapt
from stream_mtl.cut import DriftAlarm
from stream_mtl.errors import ConfigError
from stream_mtl.pipeline import Pipeline
from tests.folds import shop_cuts, small

EAGER = Adapt(drift_rate=3.0, drift_version_age=50, forgetting=0.05, forgetting_ratio=2.0)


def test_by_default_nothing_follows() -> None:
    assert adaptation(Adapt(), ("click",), {"click": 0.9}) == Adaptation()


def test_a_drift_hurries_and_forgetting_rehearses_more() -> None:
    assert adaptation(EAGER, ("click",), {"click": None}) == Adaptation(3.0, 1.0, 50)
    assert adaptation(EAGER, (), {"click": 0.04, "buy": 0.06}) == Adaptation(1.0, 2.0, None)
    assert adaptation(EAGER, (), {"click": None, "buy": 0.05}) == Adaptation()


def test_a_task_pulls_away_when_its_gradient_points_against_the_others_on_average() -> None:
    nan = float("nan")
    affinity_TT = torch.tensor([[1.0, -0.3, 0.1], [-0.3, 1.0, nan], [0.1, nan, 1.0]])
    assert [pulls_away(task, affinity_TT) for task in range(3)] == [True, True, False]
    assert not pulls_away(0, torch.full((2, 2), nan))


def fold(**sections: Any) -> tuple[Pipeline, list[dict[str, object]]]:
    """A small shop in which every cut raises an alarm for search."""
    config = small(learner={"batch_rows": 64, "first_rows": 64}, **sections)
    model = build(config, "test")
    decisions: list[dict[str, object]] = []
    alarm = DriftAlarm("search", "entropy", True)
    model.parts.evaluation.take_drifts = lambda: (alarm,)  # type: ignore[method-assign]
    model.parts.evaluation.drifted = lambda: ("search",)  # type: ignore[method-assign]
    for cut in shop_cuts(config, 900):
        decisions += model.step(cut).decisions
    return model, decisions


def test_a_drifted_fold_takes_larger_steps_and_rehearses_more() -> None:
    """The same rows, other weights; and where everything is off the weights are the usual ones."""
    digests = {}
    for name, adapt in {
        "off": {},
        "hurried": {"drift_rate": 4.0},
        "aged": {"drift_version_age": 1},
        "off again": {"forgetting_ratio": 1.0, "forgetting": 0.0},
    }.items():
        digests[name] = fold(adapt=adapt)[0].parts.learner.dense_digest()
    assert digests["off"] == digests["off again"]
    assert len(set(digests.values())) == 3


GROWING = {
    "model": {"name": "cgc", "spare_experts": 1, "experts": 2, "hidden": 16, "tower": 8},
    "balancer": {"affinity_every": 1},
    "adapt": {"grow": True, "idle": 0.0},
}


@pytest.mark.parametrize("away", [True, False])
def test_a_drifted_task_that_pulls_away_gets_an_expert_once_and_the_ledger_says_so(
    away: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself, at its own alarm, and no more than `spare_experts`; a task that agrees gets none."""
    monkeypatch.setattr("stream_mtl.reactions.pulls_away", lambda task, affinity_TT: away)
    model, decisions = fold(**GROWING)
    grown = [decision for decision in decisions if decision["kind"] == "grow_expert"]
    assert grown == ([{"kind": "grow_expert", "task": "search"}] if away else [])
    assert model.summary()["decisions"].get("grow_expert", 0) == len(grown)


def test_an_expert_that_adds_nothing_is_given_up() -> None:
    model, _ = fold(**{**GROWING, "adapt": {"grow": True, "idle": 1.0}})
    model.parts.learner.grow("click")
    cuts = shop_cuts(model.config, 1_400)
    decisions = [d for cut in cuts[len(cuts) // 2 :] for d in model.step(cut).decisions]
    assert any(d["kind"] == "merge_expert" for d in decisions)


def test_a_model_that_cannot_grow_is_refused_when_it_should() -> None:
    with pytest.raises(ConfigError, match="spare_experts"):
        build(small(adapt={"grow": True}), "test")
    with pytest.raises(ConfigError, match="affinity_every"):
        build(small(adapt={"grow": True}, model={"name": "cgc", "spare_experts": 1}), "test")
