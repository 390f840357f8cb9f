"""A model that gains private experts while it learns, and gives idle ones up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.learner import Learner
from stream_mtl.state import State, digest
from stream_mtl.testing_rows import SPEC, rows

SMALL = {"embedding_dim": 4, "text_dim": 4, "experts": 2, "hidden": 16, "tower": 8}


def learner(average: float = 0.9, **model: Any) -> Learner:
    settings = SMALL | {"name": "cgc", "spare_experts": 2} | model
    config = {"model": settings, "learner": {"average": average}, "memory": {"rows": 300}}
    return Learner(SPEC, Config.model_validate(config), torch.device("cpu"))


def taught(steps: int = 5, **settings: Any) -> Learner:
    made = learner(**settings)
    for i in range(steps):
        made.step(rows(64, first=64 * i))
    return made


def frozen(state: State) -> State:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_growing_changes_no_prediction_until_it_learns(average: float) -> None:
    model, batch = taught(average=average), rows(60, first=900)
    before_BC = model.predict(batch).logit_BC
    assert model.grow("purchase")
    assert torch.equal(model.predict(batch).logit_BC, before_BC)
    for i in range(5, 12):
        model.step(rows(64, first=64 * i))
    name = "model/spare.1.gates.0.weight"
    assert model.state()[name].abs().sum() > 0
    assert model.state()["average" + name[5:] if average else name].abs().sum() > 0


def test_a_grown_expert_is_its_task_s_own() -> None:
    """The step after it moves what it would have moved, and the new expert's gate."""
    grown, plain = taught(), taught()
    grown.grow("purchase")
    for model in (grown, plain):
        model.step(rows(64, first=320))
    old = plain.state()
    moved = {
        name
        for name, value in grown.state().items()
        if name.startswith("model/") and not torch.equal(value, old[name])
    }
    new = {f"model/spare.1.{part}.0" for part in ("experts", "gates")}
    assert "model/spare.1.gates.0.weight" in moved
    assert {name.replace(".linear", "").rsplit(".", 1)[0] for name in moved} == new


def test_growth_is_bounded() -> None:
    model = learner()
    assert [model.grow("click") for _ in range(3)] == [True, True, False]
    assert model.grow("search")


def test_a_model_without_spare_experts_cannot_grow_and_says_how_it_could() -> None:
    for settings in ({"name": "mmoe"}, {"spare_experts": 0}):
        with pytest.raises(ConfigError, match=r"model\.spare_experts > 0 can grow"):
            learner(**settings).grow("click")
        assert learner(**settings).merge_idle(rows(8)) == []


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_restored_model_has_what_had_grown_and_goes_on_bit_for_bit(average: float) -> None:
    straight = taught(average=average)
    straight.grow("purchase")
    straight.step(rows(64, first=640))
    resumed = learner(average=average)
    resumed.restore(frozen(straight.state()))
    for model in (straight, resumed):
        model.grow("purchase")
        model.step(rows(64, first=704))
    assert digest(straight.state()) == digest(resumed.state())
    batch = rows(20)
    assert torch.equal(straight.predict(batch).logit_BC, resumed.predict(batch).logit_BC)


def test_an_expert_that_says_little_is_merged_away_and_may_grow_again() -> None:
    """What it said on average stays, so that predictions hardly move; a busy one is kept."""
    model, batch = taught(), rows(200, first=900)
    for _ in range(2):
        model.grow("purchase")
    state = frozen(model.state())
    for part in ("model", "average"):
        state[f"{part}/spare.1.gates.0.bias"] += 0.015  # adds .006 on average
        state[f"{part}/spare.1.gates.1.bias"] += 1.0
    model.restore(state)
    before_BT = model.predict(batch).prob_BT
    assert model.merge_idle(batch) == ["purchase/0"]
    assert model.state()["growth/in_use"] == [[False, False], [False, True], [False, False]]
    after_BT = model.predict(batch).prob_BT
    torch.testing.assert_close(after_BT, before_BT, rtol=0.02, atol=1e-4)
    assert model.grow("purchase")
    assert torch.equal(model.predict(batch).prob_BT, after_BT)


def test_spare_experts_belong_to_the_head_of_their_task() -> None:
    model = learner()
    shared = {id(p) for p in model._model.shared_parameters()}
    for task in range(3):
        own = {id(p) for p in model._model.head_parameters(task)}
        named = {id(p) for n, p in model._named if n.startswith(f"spare.{task}.")}
        assert len(named) == 2 * 4 + 1
        assert named <= own
        assert not named & shared
