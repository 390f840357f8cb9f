"""Losses that a setting chooses: refused where they cannot be, and learned with like any other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from stream_mtl import build
from stream_mtl.config import Config, Task
from stream_mtl.errors import ConfigError
from stream_mtl.learner import Learner
from stream_mtl.task_columns import task_kinds
from stream_mtl.testing_rows import SPEC, rows
from tests.folds import shop_cuts, small

CLICK, BUY = {"kind": "binary"}, {"kind": "funnel", "after": "click"}
IPW = {"position": "ipw", "propensities": (1.0, 0.7, 0.4)}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "lambdarank": {"search": {"kind": "listwise", "ranking": "lambdarank"}},
    "jrc": {"search": {"kind": "listwise", "ranking": "jrc"}},
    "drawn lists": {"click": {**CLICK, "listwise": 0.5, "ranking": "lambdarank"}},
    "focal": {"purchase": {"kind": "binary", "imbalance": "focal"}},
    "class weights": {
        "click": {**CLICK, "imbalance": "class_weights", "class_weights": (1.0, 5.0)}
    },
    "thinned": {
        "click": {**CLICK, "keep_negatives": 0.5},
        "purchase": {**BUY, "keep_negatives": 0.2},
    },
    "ipw": {"click": {**CLICK, **IPW}, "search": {"kind": "listwise", **IPW}},
}


def config(changed: dict[str, dict[str, Any]], **more: Any) -> Config:
    tasks = {"click": CLICK, "purchase": BUY, "search": {"kind": "listwise"}} | changed
    return small(tasks=tasks, **more)


@pytest.mark.parametrize("changed", [pytest.param(v, id=k) for k, v in VARIANTS.items()])
def test_a_learner_goes_on_bit_identically_after_a_restore(changed: dict[str, Any]) -> None:
    """At any step: fresh and rehearsed rows give the next step the same digest."""
    device = torch.device("cpu")
    whole = Learner(SPEC, config(changed), device)
    for step in range(6):
        saved = {
            n: v.clone() if isinstance(v, torch.Tensor) else v for n, v in whole.state().items()
        }
        again = Learner(SPEC, config(changed), device)
        again.restore(saved)
        batch = rows(120, first=120 * step)
        one, other = whole.step(batch), again.step(batch)
        assert one.digest == other.digest
        assert not one.nonfinite
    assert one.rehearsed > 0


@pytest.mark.parametrize("changed", [pytest.param(v, id=k) for k, v in VARIANTS.items()])
def test_a_learner_learns_with_it(changed: dict[str, Any]) -> None:
    """Rows again and again: what is clicked is told from what is not, and probabilities are not far from the rate."""
    learner = Learner(SPEC, config(changed), torch.device("cpu"))
    task = SPEC.tasks.index(next(iter(changed)))
    batch = rows(400)
    if "ipw" in str(changed):  # what is clicked anywhere must not be worth more than everything
        batch = rows(400, list_rows=1)
    for _ in range(60):
        learner.step(batch)
    known_B, label_B = batch.mask_BT[:, task], batch.label_BT[:, task] > 0
    prob_B = learner.predict(batch).prob_BT[:, task]
    if bool((known_B & ~label_B).any()):
        assert prob_B[known_B & label_B].mean() > 1.2 * prob_B[known_B & ~label_B].mean()


@pytest.mark.parametrize(
    "task,said",
    [
        ({"kind": "funnel", "after": "click", "ranking": "jrc"}, "compare the rows of a list"),
        ({"kind": "binary", "ranking": "lambdarank"}, "compare the rows of a list"),
        ({"kind": "binary", "listwise": 1.0, "ranking": "jrc"}, "use kind 'listwise'"),
        ({"kind": "listwise", "imbalance": "focal"}, "'binary' and 'multiclass'"),
        ({"kind": "funnel", "after": "c", "imbalance": "focal"}, "keep_negatives"),
        ({"kind": "binary", "imbalance": "class_weights"}, "class_weights of 2 classes, found 0"),
        ({"kind": "binary", "class_weights": (1, 2)}, "need imbalance"),
        ({"kind": "binary", "imbalance": "focal", "keep_negatives": 0.5}, "use 'class_weights'"),
        ({"kind": "binary", "imbalance": "focal", "smoothing": 0.1}, "drop one"),
        ({"kind": "binary", "imbalance": "class_weights", "class_weights": (1, 0)}, "above 0"),
        ({"kind": "listwise", "keep_negatives": 0.5}, "judged one by one"),
        ({"kind": "binary", "listwise": 1.0, "keep_negatives": 0.5}, "judged one by one"),
        ({"kind": "funnel", "after": "c", "keep_negatives": 0.5, "delay": "fnw"}, "drop one"),
        ({"kind": "funnel", "after": "c", **IPW}, "a funnel follows its first step"),
        ({"kind": "binary", "position": "ipw"}, "needs them"),
        ({"kind": "binary", "propensities": (1.0, 0.5)}, "nothing else uses them"),
        ({"kind": "binary", "position": "ipw", "propensities": (0.9, 0.5)}, "first place 1"),
        ({"kind": "listwise", "ranking": "jrc", **IPW}, "a label for a yes or no"),
        ({"kind": "binary", "imbalance": "linear"}, "'none', 'class_weights' or 'focal'"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_way_out(
    task: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        Task.model_validate(task)


def test_a_focal_loss_is_refused_where_its_probability_is_multiplied() -> None:
    """A funnel multiplies the sigmoids of its steps; those of a focal loss are no rates."""
    changed = {"click": {**CLICK, "imbalance": "focal"}}
    with pytest.raises(ConfigError, match="'purchase' comes after it"):
        task_kinds(SPEC, config(changed))


def test_thinned_purchases_cost_fewer_rows_in_a_whole_fold() -> None:
    """And what is published is there all the same."""
    short = {"join": {"purchase_window_ms": 1_800_000}}
    cuts = shop_cuts(config({}, **short), 1_500)
    learned = {}
    for name, keep in (("all", 1.0), ("some", 0.1)):
        model = build(config({"purchase": {**BUY, "keep_negatives": keep}}, **short), "test")
        for cut in cuts:
            model.step(cut)
        learned[name] = model.totals["steps"]
        assert model.totals["scores"] > 0
    assert learned["some"] < 0.7 * learned["all"]
