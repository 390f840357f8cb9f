"""One learner with every kind of task: heads of several widths side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from stream_mtl.batch import Batch, Spec
from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.evaluation import Evaluation
from stream_mtl.keyed_store import LIST_ROWS
from stream_mtl.learner import Learner
from stream_mtl.state import State, digest
from stream_mtl.task_columns import task_kinds
from stream_mtl.testing_rows import rows

TASKS: dict[str, dict[str, Any]] = {
    "click": {"kind": "binary"},
    "intent": {"kind": "multiclass", "classes": 4},
    "cart": {"kind": "funnel", "after": "click"},
    "search": {"kind": "listwise"},
    "dwell": {"kind": "regression", "center": 5.0, "scale": 2.0},
    "purchase": {"kind": "funnel", "after": "cart"},
}
INTENT, DWELL = 1, 4
SPEC = Spec(("user", "item"), ("price", "rate"), tuple(TASKS), 256, 0)


def learner(tasks: Mapping[str, Any] = TASKS, **more: Any) -> Learner:
    small = {"embedding_dim": 4, "experts": 2, "hidden": 32, "tower": 16}
    settings: dict[str, Any] = {
        "tasks": tasks,
        "model": small,
        "memory": {"rows": 300},
        "scoring": {"value": {"click": 1.0}},
        "learner": {"average": 0.9},
        "optimizer": {"dense_lr": 5e-3, "first_lr": 5e-3},
        "balancer": {"name": "mean"},
        **more,
    }
    spec = replace(SPEC, tasks=tuple(tasks))
    return Learner(spec, Config.model_validate(settings), torch.device("cpu"))


def shop(count: int, first: int = 0) -> Batch:
    """Intent follows the quadrant of the dense features, dwell is linear in them."""
    narrow = replace(SPEC, tasks=("click", "purchase", "search"))
    batch = rows(count, first=first, spec=narrow)
    click_B, purchase_B, search_B = batch.label_BT.unbind(1)
    price_B, rate_B = batch.dense_BD.unbind(1)
    intent_B = 2.0 * (price_B > 0) + 1.0 * (rate_B > 0)
    dwell_B = 5.0 + 2 * price_B - rate_B
    label_BT = torch.stack((click_B, intent_B, click_B, search_B, dwell_B, purchase_B), 1)
    mask_BT = torch.ones(count, len(TASKS), dtype=torch.bool)
    mask_BT[:, 3] = batch.mask_BT[:, 2]
    return replace(batch, label_BT=label_BT, mask_BT=mask_BT)


def taught(steps: int, model: Learner | None = None, first: int = 0) -> Learner:
    model = model or learner()
    for i in range(steps):
        model.step(shop(64, first=first + 64 * i))
    return model


def copied(state: State) -> State:
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}


def test_every_kind_of_task_learns_beside_the_others() -> None:
    model, unseen = taught(150), shop(500, first=90_000)
    prediction = model.predict(unseen)
    intent_BW = prediction.output_BC[:, 1:5]
    torch.testing.assert_close(intent_BW.sum(1), torch.ones(500))
    assert (intent_BW.argmax(1) == unseen.label_BT[:, INTENT]).float().mean() > 0.9
    error_B = prediction.prob_BT[:, DWELL] - unseen.label_BT[:, DWELL]
    assert error_B.square().mean() < 0.1 * unseen.label_BT[:, DWELL].var()


def test_the_whole_way_is_never_likelier_than_a_part_of_it() -> None:
    prob_BT = taught(20).predict(shop(200, first=5_000)).prob_BT
    assert (prob_BT[:, 5] < prob_BT[:, 2]).all()
    assert (prob_BT[:, 2] < prob_BT[:, 0]).all()


@pytest.mark.parametrize("loss", ["er", "der", "der++"])
def test_a_restored_learner_goes_on_bit_for_bit(loss: str) -> None:
    model = taught(7, learner(rehearsal={"loss": loss}))
    other = learner(rehearsal={"loss": loss})
    other.restore(copied(model.state()))
    for i in range(3):
        batch = shop(64, first=70_000 + 64 * i)
        assert model.step(batch).digest == other.step(batch).digest
    assert digest(model.state()) == digest(other.state())


def test_a_wide_head_without_labels_stays_as_it_is() -> None:
    """And its absence changes nothing in the steps of the others' heads, beside the shared parts."""
    model = taught(5)
    before = copied(model.state())
    batch = shop(64, first=8_000)
    mask_BT = batch.mask_BT.clone()
    mask_BT[:, INTENT] = False
    memories = {n: m for n, m in before.items() if n.startswith("memory/intent")}
    model = learner(rehearsal={"loss": "none"})
    model.restore(before)
    model.step(replace(batch, mask_BT=mask_BT))
    after = model.state()
    head = [name for name in before if "heads.1." in name or "gates.1." in name]
    assert head
    assert all(torch.equal(after[name], before[name]) for name in head)
    assert any(not torch.equal(after[n], before[n]) for n in before if "heads.4." in n)
    assert digest(memories) == digest({n: after[n] for n in memories})


def test_a_class_that_comes_late_is_learned_and_the_others_are_kept() -> None:
    """Three classes for a long time, then the fourth."""

    def without_the_last(batch: Batch) -> Batch:
        mask_BT = batch.mask_BT.clone()
        mask_BT[:, INTENT] &= batch.label_BT[:, INTENT] < 3
        return replace(batch, mask_BT=mask_BT)

    model = learner()
    for i in range(120):
        model.step(without_the_last(shop(64, first=64 * i)))
    taught(60, model, first=30_000)
    unseen = shop(600, first=90_000)
    said_B = model.predict(unseen).output_BC[:, 1:5].argmax(1)
    for one in range(4):
        of_B = unseen.label_BT[:, INTENT] == one
        assert (said_B[of_B] == one).float().mean() > 0.8


def test_one_row_with_one_label_is_a_step_of_that_task_alone() -> None:
    model = taught(3, learner(rehearsal={"loss": "none"}))
    before = copied(model.state())
    row = shop(1, first=4_000)
    mask_BT = torch.zeros_like(row.mask_BT)
    mask_BT[:, DWELL] = True
    report = model.step(replace(row, mask_BT=mask_BT))
    assert list(report.losses) == ["dwell"]
    assert not report.nonfinite
    assert moved(before, model.state()) == {DWELL}


def moved(before: State, after: State) -> set[int]:
    """Tasks whose heads differ."""
    return {
        task
        for task in range(len(TASKS))
        for name in before
        if name.startswith("model/") and f"heads.{task}." in name
        if not torch.equal(before[name], after[name])
    }


def test_a_label_beyond_all_others_of_its_task_moves_the_others_heads_no_further() -> None:
    """One absurd dwell time among 64 rows: what is shared is clipped, each head takes a usual step."""
    far = {}
    for label in (5.0, 1e30):
        model = taught(40)
        before = copied(model.state())
        batch = shop(64, first=9_000)
        label_BT = batch.label_BT.clone()
        label_BT[0, DWELL] = label
        assert not model.step(replace(batch, label_BT=label_BT)).nonfinite
        far[label] = max(
            float((model.state()[name] - before[name]).abs().max())
            for name in before
            if name.startswith("model/") and "heads.0." in name
        )
    assert 0 < far[1e30] <= 1.5 * far[5.0]


def test_without_the_limit_of_a_label_the_step_would_be_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The naive variant: the loss of all tasks is not finite, and nobody learns."""
    monkeypatch.setattr("stream_mtl.tasks.regression._LIMIT", float("inf"))
    model, batch = taught(3), shop(64, first=9_000)
    label_BT = batch.label_BT.clone()
    label_BT[0, DWELL] = 1e30
    assert model.step(replace(batch, label_BT=label_BT)).nonfinite


@pytest.mark.parametrize("value", [0.0, 7.0, 1e30])
def test_a_column_that_is_constant_costs_nobody_anything(value: float) -> None:
    """A field that a shop fills with one number, however large: the rest is learned as without it."""

    def constant(batch: Batch) -> Batch:
        dense_BD = batch.dense_BD.clone()
        dense_BD[:, 1] = value
        return replace(batch, dense_BD=dense_BD)

    model = learner()
    for i in range(150):
        assert not model.step(constant(shop(64, first=64 * i))).nonfinite
    unseen = shop(500, first=90_000)
    said_B = model.predict(constant(unseen)).prob_BT[:, DWELL]
    known_B = 5.0 + 2 * unseen.dense_BD[:, 0]  # what is left to be known
    assert (said_B - known_B).square().mean() < 0.2 * known_B.var()


def test_without_the_limit_of_a_feature_a_constant_would_end_learning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stream_mtl.layers._DENSE_LIMIT", float("inf"))
    batch = shop(64)
    dense_BD = batch.dense_BD.clone()
    dense_BD[:, 1] = 1e30
    model = learner()
    reports = [model.step(replace(batch, dense_BD=dense_BD)) for _ in range(3)]
    assert any(report.nonfinite for report in reports)


def test_more_classes_than_the_head_has_are_refused_where_they_are_configured() -> None:
    with pytest.raises(ValueError, match="needs it"):
        learner({"intent": {"kind": "multiclass"}})
    with pytest.raises(ValueError, match="is for kind 'multiclass'"):
        learner({"click": {"kind": "binary", "classes": 3}})


def test_a_funnel_that_goes_round_is_refused() -> None:
    circle = {
        "cart": {"kind": "funnel", "after": "buy"},
        "buy": {"kind": "funnel", "after": "cart"},
    }
    with pytest.raises(ConfigError, match="circle"):
        learner(circle)


def test_a_funnel_after_an_unknown_task_names_the_valid_ones() -> None:
    config = Config.model_validate(
        {
            "tasks": {"click": {"kind": "binary"}, "buy": {"kind": "funnel", "after": "klick"}},
            "scoring": {"value": {"click": 1.0}},
        }
    )
    with pytest.raises(ConfigError, match=r"tasks\.buy\.after = 'klick'.*click, buy"):
        task_kinds(replace(SPEC, tasks=("click", "buy")), config)


def test_lists_of_a_listwise_task_stay_whole_beside_wide_heads() -> None:
    model = taught(30)
    assert model.memory_rows()["search"] <= 300 // LIST_ROWS * LIST_ROWS
    assert model.memory_rows()["intent"] == 300


def test_every_kind_is_judged_by_the_metrics_that_it_declares_and_by_no_other() -> None:
    model = learner()
    for first in range(0, 640, 64):
        model.step(shop(64, first))
    evaluation = Evaluation(Config().evaluation, SPEC, ["search"], kinds=model.kinds)
    rows = shop(256, 5_000)
    evaluation.observe(model.predict(rows).output_BC, rows)
    counts = {"labels", "positives", "forgetting", "backward_transfer", "forward_transfer"}
    for kind, (name, quality) in zip(model.kinds, evaluation.summary().items(), strict=True):
        told = {metric for metric, value in quality.items() if value is not None}
        assert told - counts == set(kind.metrics), name
