"""Figures that tell a dead expert and a gate that no longer chooses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stream_mtl.batch import empty
from stream_mtl.config import Config
from stream_mtl.learner import Learner
from stream_mtl.testing_rows import SPEC, rows


def learner(**model: Any) -> Learner:
    small = {"embedding_dim": 4, "text_dim": 4, "experts": 3, "hidden": 32, "tower": 8}
    return Learner(SPEC, Config.model_validate({"model": small | model}), torch.device("cpu"))


def changed(taught: Learner, name: str, value: float, part: slice = slice(None)) -> None:
    state = {k: v.clone() if isinstance(v, Tensor) else v for k, v in taught.state().items()}
    state[name][part] = value
    taught.restore(state)


def test_a_young_model_is_well() -> None:
    found = learner().health(rows(200))
    assert all(rate < 0.1 for name, rate in found.items() if name.startswith("zero_rate/"))
    assert all(e > 0.9 for name, e in found.items() if name.startswith("gate_entropy/"))


@pytest.mark.parametrize("name,prefix", [("mmoe", "expert."), ("cgc", "expert.linear.")])
def test_a_dead_expert_is_told(name: str, prefix: str) -> None:
    """All weights of the first of three experts are zero: so is all that it says."""
    taught = learner(name=name)
    for part in ("weight", "bias"):
        changed(taught, f"model/{prefix}{part}", 0.0, slice(0, 32))
    found = taught.health(rows(200))
    assert found["zero_rate/shared0"] == 1
    assert found["zero_rate/shared1"] < 0.1


def test_a_gate_that_always_takes_one_expert_is_told_for_its_task_alone() -> None:
    taught = learner()
    changed(taught, "model/gates.1.bias", 50.0, slice(2, 3))
    found = taught.health(rows(200))
    assert found["gate_entropy/purchase"] < 0.01
    assert found["gate_share/purchase/shared2"] > 0.99
    assert found["gate_entropy/click"] > 0.9


def test_a_model_without_experts_and_a_batch_without_rows_have_no_figures() -> None:
    assert learner(name="shared_bottom").health(rows(20)) == {}
    assert learner().health(empty(SPEC)) == {}


def test_levels_below_the_last_have_figures_of_their_own() -> None:
    found = learner(name="ple", interactions="fm").health(rows(50))
    assert {"gate_entropy/click", "gate_entropy/0/click", "zero_rate/0/click0"} <= set(found)
