"""Fine-tuning of one head: it moves alone, and only by the gate's leave."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stream_mtl import build
from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.files import cuts_of_records
from stream_mtl.gate import Limits
from stream_mtl.learner import Learner
from stream_mtl.simulator import as_line, simulate
from stream_mtl.state import State
from stream_mtl.testing_rows import SPEC, rows
from tests.folds import as_records, small

CPU = torch.device("cpu")
SMALL = {"embedding_dim": 4, "text_dim": 4, "experts": 2, "hidden": 16, "tower": 8}
EASY = Limits(users=10, calibration=(0.1, 10.0))
UNREACHABLE = Limits(users=1_000_000)
TASKS = list(SPEC.tasks)


def learnable(first: int, count: int = 256) -> Any:
    """Rows whose labels the dense columns tell, a millisecond apart."""
    batch = rows(count, first=first)
    label_B = (batch.dense_BD[:, 0] > 0.5).float()
    label_BT = torch.stack((label_B, label_B * (batch.dense_BD[:, 1] > 0), label_B), 1)
    return replace(batch, label_BT=label_BT, time_B=torch.arange(first, first + count))


def learner(
    model: str = "mmoe", average: float = 0.9, tasks: tuple[str, ...] = ("click",)
) -> Learner:
    config = Config.model_validate(
        {
            "model": SMALL | {"name": model},
            "memory": {"rows": 1_000},
            "learner": {"average": average},
            "fine_tune": {"tasks": tasks, "recent": 6_000, "rate": 0.03},
        }
    )
    model_ = Learner(SPEC, config, CPU)
    for n in range(24):
        model_.step(learnable(256 * n))
    return model_


def spoilt(model: Learner, task: str) -> Learner:
    """A head that has lost its way: both as it is served and as it learns."""
    generator = torch.Generator().manual_seed(5)
    for one in (model._model, model._average.served):
        for parameter in one.head_parameters(TASKS.index(task)):
            with torch.no_grad():
                parameter += 1.0 * torch.randn(parameter.shape, generator=generator)
    return model


def frozen(state: State) -> State:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


@pytest.mark.parametrize("average", [0.9, 0.0])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["mmoe", "cgc"])
def test_a_spoilt_head_is_mended_and_nothing_else_moves(
    name: str, task: str, average: float
) -> None:
    model = spoilt(learner(name, average, (task,)), task)
    ahead, before = learnable(50_000), frozen(model.state())
    was = model.predict(ahead)
    done = model.fine_tune(task, EASY)
    assert done.verdict.decision == "promote", done.verdict.reasons
    assert done.decision()["head_version"] == model.head_versions()[task] == 1
    now = model.predict(ahead)
    place = TASKS.index(task)
    for other, kind in enumerate(model.kinds):
        if place in kind.tasks:  # itself, and what is a product with it
            assert not torch.equal(was.prob_BT[:, other], now.prob_BT[:, other])
        else:
            assert torch.equal(was.prob_BT[:, other], now.prob_BT[:, other]), TASKS[other]
    label_B = ahead.label_BT[:, place]
    assert torch.nn.functional.binary_cross_entropy(
        now.prob_BT[:, place], label_B
    ) < torch.nn.functional.binary_cross_entropy(was.prob_BT[:, place], label_B)
    heads = {id(p) for p in model._model.head_parameters(place)}
    own = {n for n, p in model._named if id(p) in heads}
    for key, old in before.items():
        new = model.state()[key]
        if isinstance(old, Tensor) and not torch.equal(old, new):
            part, _, rest = key.partition("/")
            assert key == "fine_tuning/version_T" or (
                part in ("model", "average", "dense") and any(rest.startswith(n) for n in own)
            ), key


def test_what_the_gate_holds_back_changes_not_a_bit() -> None:
    model = spoilt(learner(), "click")
    before = frozen(model.state())
    done = model.fine_tune("click", UNREACHABLE)
    assert done.verdict.decision == "hold back"
    assert "users" in done.verdict.reasons[0]
    for key, old in before.items():
        if isinstance(old, Tensor):
            assert torch.equal(old, model.state()[key]), key


def test_a_head_that_is_good_already_is_seldom_replaced_by_its_own_noise() -> None:
    """The judges were not trained on: without that, every attempt would look better."""
    model = learner()
    tuning = model._fine_tuning
    train, stopping, judging = tuning._rows(0)
    keys = [set(part.batch.row_key_B.tolist()) for part in (train, stopping, judging)]
    assert all(keys)
    assert not keys[0] & keys[1] | keys[0] & keys[2] | keys[1] & keys[2]
    assert int(train.batch.time_B.max()) < int(judging.batch.time_B.min())
    users = [set(part.batch.user_key_B.tolist()) for part in (stopping, judging)]
    assert not users[0] & users[1]


def test_a_young_task_is_held_back_with_the_reason() -> None:
    config = Config.model_validate({"model": SMALL, "fine_tune": {"tasks": ["purchase"]}})
    done = Learner(SPEC, config, CPU).fine_tune("purchase", EASY)
    assert done.verdict.reasons == ("purchase: too few rows to train and to judge",)


def test_erased_users_are_not_kept_to_be_tuned_on() -> None:
    model = learner()
    user = int(learnable(256 * 23).user_key_B[0])
    store = model._fine_tuning.stores()[0]
    assert bool((store.column("user_key_B") == user).any())
    model.erase(user)
    assert not bool((store.column("user_key_B") == user).any())


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="the tasks are: click, purchase, search"):
        learner(tasks=("klick",))


def test_a_fold_that_tunes_goes_on_bit_for_bit_and_records_its_verdicts() -> None:
    config = small(
        learner={"batch_rows": 64, "first_rows": 64},
        join={"click_window_ms": 60_000, "purchase_window_ms": 1_200_000, "late_ms": 60_000},
        fine_tune={"tasks": ("click", "purchase"), "every": 10, "epochs": 2},
        gate={"users": 5},
    )
    lines = [as_line(one) for one in simulate("steady", 1_500, 3)]
    cuts = list(cuts_of_records(as_records(lines), config))
    whole = build(config, "test")
    results = [whole.step(cut) for cut in cuts]
    decisions = [d for result in results for d in result.decisions if d["kind"] == "fine_tune"]
    assert len(decisions) >= 4
    assert {d["verdict"] for d in decisions} <= {"promote", "hold back"}
    json.dumps(decisions)
    assert whole.quality()["click"]["head_version"] == sum(
        d["task"] == "click" and d["verdict"] == "promote" for d in decisions
    )
    first, second = build(config, "test"), build(config, "test")
    stop = next(
        n for n, r in enumerate(results) if any(d["kind"] == "fine_tune" for d in r.decisions)
    )
    for cut in cuts[: stop + 1]:
        first.step(cut)
    second.restore(frozen(first.state()))
    assert [second.step(cut).digest for cut in cuts[stop + 1 :]] == [
        r.digest for r in results[stop + 1 :]
    ]


def test_a_verdict_on_a_task_without_a_rate_is_in_its_own_unit() -> None:
    """A regression's labels are no share of positives: its window brings the scale."""
    from stream_mtl.gate import Window, decide

    user_N = np.arange(400)
    window = Window(
        user_N, np.full(400, 3.5), np.full(400, 0.5), np.full(400, 0.4), None, scale=0.5
    )
    verdict = decide({"dwell": window}, "dwell", Limits())
    assert verdict.decision == "promote"
    assert "-0.2000" in verdict.reasons[0]
