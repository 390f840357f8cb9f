"""Every training mode keeps what `modes/base.py` promises, seen through the learner."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stream_mtl import config
from stream_mtl.balancers import BALANCERS
from stream_mtl.balancers.base import Setup
from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.learner import Learner
from stream_mtl.modes import MODES
from stream_mtl.modes.alternating import Alternating
from stream_mtl.modes.base import Learning, Moves
from stream_mtl.state import State, digest
from stream_mtl.testing_rows import SPEC, rows

CPU = torch.device("cpu")
NAMES = list(MODES)
SMALL = {"embedding_dim": 4, "text_dim": 4, "experts": 2, "hidden": 16, "tower": 8}


def learner(learning: dict[str, Any], **sections: dict[str, Any]) -> Learner:
    given = {"model": SMALL, "memory": {"rows": 400}, "learner": learning, **sections}
    return Learner(SPEC, Config.model_validate(given), CPU)


def frozen(state: State) -> State:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


def moved(before: State, after: State, prefix: str) -> set[str]:
    names = [name for name in before if name.startswith(prefix)]
    return {name for name in names if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("pick", ["proportional", "balancer"])
@pytest.mark.parametrize("name", NAMES)
def test_a_learner_stopped_at_any_step_goes_on_bit_for_bit(name: str, pick: str) -> None:
    settings = {"mode": name, "pick": pick}
    whole = learner(settings)
    digests, saved = [], []
    for n in range(8):
        digests.append(whole.step(rows(32, first=32 * n)).digest)
        saved.append(frozen(whole.state()))
    for stop in range(1, 7):
        again = learner(settings)
        again.restore(saved[stop - 1])
        assert [again.step(rows(32, first=32 * n)).digest for n in range(stop, 8)] == digests[stop:]
        assert digest(again.state()) == digest(whole.state())


@pytest.mark.parametrize("name", NAMES)
def test_every_task_learns(name: str) -> None:
    model = learner({"mode": name}, optimizer={"first_lr": 0.01})
    untaught = frozen(model.state())
    for n in range(30):
        model.step(rows(64, first=64 * n))
    for place in range(len(SPEC.tasks)):
        own = {id(p) for p in model._model.head_parameters(place)}
        heads = {f"model/{n}" for n, p in model._named if id(p) in own}
        assert heads <= moved(untaught, model.state(), "model/"), SPEC.tasks[place]
    assert moved(untaught, model.state(), "table_RH")


def test_alternating_learns_one_task_a_step_and_moves_what_is_shared_once_a_round() -> None:
    model = learner({"mode": "alternating", "round_steps": 3, "average": 0})
    shared_names = {
        n for n, p in model._named if id(p) in map(id, model._model.shared_parameters())
    }
    shared_moves, tasks = [], []
    for n in range(12):
        before = frozen(model.state())
        report = model.step(rows(32, first=32 * n))
        after = model.state()
        tasks.append(tuple(report.losses))
        here = {name.removeprefix("model/") for name in moved(before, after, "model/")}
        shared_moves.append(bool(here & shared_names))
        assert bool(moved(before, after, "table_RH")) == shared_moves[-1]
        for place, task in enumerate(SPEC.tasks):
            heads = {
                n for n, p in model._named if id(p) in map(id, model._model.head_parameters(place))
            }
            reads = {t for one in report.losses for t in model.kinds[SPEC.tasks.index(one)].tasks}
            assert not heads & here or place in reads, f"{task} moved in a step of {report.losses}"
    assert shared_moves == [False, False, True] * 4
    assert all(len(one) == 1 for one in tasks)
    assert {one[0] for one in tasks} == set(SPEC.tasks)


def test_a_round_moves_the_shared_part_by_the_mean_of_its_steps_and_heads_by_each() -> None:
    trunk, head = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    settings = config.Learner(mode="alternating", round_steps=2)
    balancer = BALANCERS["mean"](Setup(torch.ones(2), config.Balancer(), 0))
    mode = Alternating(
        Learning(settings, 0, 2, [trunk, head], [True, False], torch.zeros(5, 1), balancer)
    )
    loss_T = torch.ones(2)
    first = Moves(
        [torch.tensor([2.0, 4.0]), torch.tensor([7.0])],
        torch.tensor([1, 3]),
        torch.tensor([[1.0], [3.0]]),
    )
    second = Moves(
        [torch.tensor([4.0, 0.0]), None], torch.tensor([3, 4]), torch.tensor([[5.0], [8.0]])
    )
    for _ in range(2):  # a second round knows nothing of the first
        held = mode.hold(first, 0, loss_T)
        assert held.dense[0] is None
        assert held.dense[1] is first.dense[1]
        assert len(held.row_U) == 0
        done = mode.hold(second, 1, loss_T)
        assert done.dense[0] is not None
        assert done.dense[0].tolist() == [3.0, 2.0]
        assert done.dense[1] is None
        assert done.row_U.tolist() == [1, 3, 4]
        assert done.touched_UH.squeeze(1).tolist() == [0.5, 4.0, 4.0]


def test_rare_tasks_have_their_turn_more_often_than_their_labels_say_and_less_than_evenly() -> None:
    model = learner({"mode": "alternating"})
    mode = model._mode
    there_T, rows_T = torch.tensor([True, True, False]), torch.tensor([900.0, 100.0, 900.0])
    turns = [mode.turn(there_T, rows_T, version) for version in range(2_000)]
    assert 2 not in turns, "a task with nothing to learn from"
    assert turns.count(1) / 2_000 == pytest.approx(
        0.25, abs=0.03
    )  # sqrt(100) / (sqrt(900) + sqrt(100))


def test_turns_by_the_balancer_follow_its_weights() -> None:
    tasks = {
        "click": {"kind": "binary", "weight": 3.0},
        "purchase": {"kind": "funnel", "after": "click", "weight": 1.0},
        "search": {"kind": "listwise", "weight": 1.0},
    }
    model = learner({"mode": "alternating", "pick": "balancer"}, tasks=tasks)
    everyone = torch.ones(3, dtype=torch.bool)
    turns = [model._mode.turn(everyone, torch.ones(3), version) for version in range(2_000)]
    assert turns.count(0) / 2_000 == pytest.approx(0.6, abs=0.04)


def test_alternating_refuses_a_balancer_that_compares_gradients() -> None:
    with pytest.raises(ConfigError, match="one that weighs losses"):
        learner({"mode": "alternating"}, balancer={"name": "pcgrad"})


def test_an_unknown_mode_is_refused_with_the_names_of_those_there_are() -> None:
    with pytest.raises(ConfigError, match="alternating, joint"):
        learner({"mode": "alternate"})
