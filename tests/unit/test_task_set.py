"""Tasks that come and go on a running lineage."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from stream_mtl import build
from stream_mtl.config import Config
from stream_mtl.cut import Cut, CutResult
from stream_mtl.files import cuts_of_records
from stream_mtl.pipeline import Pipeline
from stream_mtl.simulator import as_line, simulate
from tests.folds import NOON, Fold, as_records, small

EVENTS = 1_500


def command(type_: str, **fields: Any) -> bytes:
    whole = {"type": type_, "command_id": f"{type_}{sorted(fields)}", "issued_at": NOON}
    return json.dumps(whole | fields).encode()


def stream(config: Config, *commands: bytes, at: int = EVENTS // 2) -> list[Cut]:
    lines = [as_line(one) for one in simulate("steady", EVENTS, 3)]
    return list(cuts_of_records(as_records([*lines[:at], *commands, *lines[at:]]), config))


def folded(config: Config, cuts: list[Cut]) -> tuple[Pipeline, list[CutResult]]:
    model = build(config, "test")
    return model, [model.step(cut) for cut in cuts]


def kept(model: Pipeline) -> dict[str, Any]:
    """The state as a checkpoint keeps it."""
    return {
        name: value.clone() if isinstance(value, torch.Tensor) else json.loads(json.dumps(value))
        for name, value in model.state().items()
    }


def decisions(results: list[CutResult]) -> list[dict[str, object]]:
    return [decision for result in results for decision in result.decisions]


CART = command("add_task", task="cart", kind="funnel", after="click", weight=0.5)
GENDER = command(
    "add_task", task="gender", kind="multiclass", label="profile.gender", values=["f", "m"]
)


@pytest.fixture(scope="module")
def config() -> Config:
    return small(
        learner={"batch_rows": 64, "first_rows": 64},
        join={"click_window_ms": 60_000, "purchase_window_ms": 1_200_000, "late_ms": 60_000},
    )


def test_a_task_added_without_a_weight_weighs_a_tenth_of_the_heaviest_there_is(
    config: Config,
) -> None:
    """Not 1, a main task's weight, which would take half of click's share in every step."""
    louder = command("set_task_weight", task="click", weight=3.0)
    heavy = command("set_task_weight", command_id="heavy", task="purchase", weight=50.0)
    gone = command("retire_task", task="purchase")
    for before, weight in (([], 0.1), ([louder], 0.3), ([heavy, gone], 0.1)):
        model, _ = folded(config, stream(config, *before, GENDER))
        assert model.config.tasks["gender"].weight == pytest.approx(weight)


def test_an_added_task_learns_is_judged_and_is_published(config: Config) -> None:
    model, results = folded(config, stream(config, CART))
    assert [d["done"] for d in decisions(results)] == [True]
    summary = model.quality()
    assert list(summary) == ["click", "purchase", "search", "cart"]
    assert summary["cart"]["kind"] == "funnel"
    assert summary["cart"]["labels"] > 0
    assert summary["cart"]["memory_rows"] > 0
    scores = [
        json.loads(o.value) for o in results[-1].outputs if o.key.startswith("user:") and o.value
    ]
    listed = scores[0]["lists"]["home"][0]["scores"]
    assert {"cart", "cart_given_click"} < set(listed)


def test_an_added_task_takes_nothing_from_the_others(config: Config) -> None:
    """A cut of nothing but the command: every number that was there is there still, in its old place."""
    fold = Fold(config)
    lines = [as_line(one) for one in simulate("steady", EVENTS, 3)]
    for start in range(0, EVENTS, 100):
        fold.outputs(lines[start : start + 100])
    before = kept(fold.model)
    fold.outputs([GENDER])
    after = fold.model.state()
    assert fold.model.totals["steps"] > 3
    # what any cut changes: counts, who was listed when, idle partitions
    passing = (
        "pipeline/",
        "scoring/",
        "evaluation/tasks",
        "shop/users/columns/scored",
        "watermark/",
        "shop/profiles/values",
    )
    for name, old in before.items():
        if name.startswith(passing):
            continue
        new = after[name]
        if isinstance(old, torch.Tensor):
            corner = new[tuple(slice(0, n) for n in old.shape)]
            assert torch.equal(corner.nan_to_num(), old.nan_to_num()), name
        else:
            assert json.loads(json.dumps(new)) == old, name
    assert after["learner/rates/sums_2T"].shape == (2, 4)
    assert after["features/columns/served"].shape[1] == 5
    assert after["features/columns/served"][:, 3:].isnan().all()  # nothing was predicted for it


def test_a_task_weight_set_by_command_is_that_of_the_steps_after_it(config: Config) -> None:
    heavy = command("set_task_weight", task="purchase", weight=7.5)
    model = build(config, "test")
    weights: list[float] = []
    changed = 0
    for cut in stream(config, heavy):
        result = model.step(cut)
        weights += [r.weights["purchase"] for r in model.reports]
        if result.decisions:
            assert result.decisions[0]["done"], result.decisions
            changed = len(weights)
    assert 0 < changed < len(weights)
    # the balancer shares the declared weights out over the active tasks, so purchase alone gains
    assert max(weights[:changed]) < 0.2 < 0.8 < min(weights[changed:]), "of shares that sum to 1"
    assert model.config.tasks["purchase"].weight == 7.5


def test_a_fold_with_added_and_retired_tasks_goes_on_bit_for_bit(config: Config) -> None:
    """The saved state knows its tasks: the configuration of the restart is the one of the start."""
    heavy = command("set_task_weight", task="purchase", weight=2.0)
    cuts = stream(config, CART, GENDER, heavy, command("retire_task", task="search"))
    _, results = folded(config, cuts)
    for stop in (len(cuts) // 2 + 1, len(cuts) - 3):
        first, second = build(config, "test"), build(config, "test")
        for cut in cuts[:stop]:
            first.step(cut)
        saved = {
            name: value.clone()
            if isinstance(value, torch.Tensor)
            else json.loads(json.dumps(value))
            for name, value in first.state().items()
        }
        second.restore(saved)
        assert [second.step(cut).digest for cut in cuts[stop:]] == [
            r.digest for r in results[stop:]
        ]


def test_a_retired_task_learns_no_more_and_is_published_no_more(config: Config) -> None:
    cuts = stream(config, command("retire_task", task="purchase"))
    model, results = folded(config, cuts)
    assert [d["done"] for d in decisions(results)] == [True]
    assert model.parts.learner.memory_rows()["purchase"] == 0
    last = [
        json.loads(o.value) for o in results[-1].outputs if o.key.startswith("user:") and o.value
    ]
    assert set(last[0]["lists"]["home"][0]["scores"]) == {"click", "search"}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (command("add_task", task="click", kind="binary"), "already"),
        (command("add_task", task="c", kind="classes"), "kind"),
        (command("add_task", task="c", kind="binary", label="klick"), "use one of"),
        (
            command("add_task", task="c", kind="funnel", label="cart", after="b"),
            "use one of: click",
        ),
        (command("add_task", task="c", kind="multiclass", label="profile.x"), "needs it"),
        (command("retire_task", task="c"), "there is no task"),
        (command("retire_task", task="click"), "is the way to purchase"),
        (command("rollback"), "needs checkpoints"),
    ],
)
def test_a_command_that_cannot_be_carried_out_changes_nothing_and_says_why(
    config: Config, fault: bytes, reason: str
) -> None:
    cuts = stream(config, fault, at=300)[:8]
    model, results = folded(config, cuts)
    (decision,) = decisions(results)
    assert decision["done"] is False
    assert reason in str(decision["reason"])
    assert list(model.config.tasks) == ["click", "purchase", "search"]


def test_the_last_tasks_cannot_be_retired(config: Config) -> None:
    ends = [
        command("retire_task", task=name, command_id=name)
        for name in ("purchase", "search", "click")
    ]
    _, results = folded(config, stream(config, *ends, at=300)[:8])
    assert [d["done"] for d in decisions(results)] == [True, True, False]


def test_a_task_with_a_shorter_window_joins_and_learns_before_the_long_one(config: Config) -> None:
    """What was bought within two minutes is known after the click window, here ten minutes, not after twenty."""
    soon = {"kind": "funnel", "after": "click", "label": "purchase", "window_ms": 120_000}
    model, results = folded(config, stream(config, command("add_task", task="soon", **soon)))
    assert [d["done"] for result in results for d in result.decisions] == [True]
    assert model.quality()["soon"]["labels"] > 0
    tasks = {**config.model_dump()["tasks"], "soon": {**soon, "weight": 0.1}}
    model, _ = folded(
        small(**{**config.model_dump(exclude_unset=True), "tasks": tasks}), stream(config)
    )
    quality = model.quality()
    assert quality["soon"]["labels"] > quality["purchase"]["labels"] > 0
    assert quality["soon"]["positives"] <= quality["purchase"]["positives"]
