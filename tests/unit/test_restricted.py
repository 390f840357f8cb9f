"""What a task may not use must not get to its scores, nor learn from its labels."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_mtl.batch import Batch
from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.learner import Learner
from stream_mtl.models import MODELS
from stream_mtl.testing_rows import SPEC, rows
from tests.folds import small
from tests.unit.test_task_set import command, folded, stream

CPU = torch.device("cpu")
USER, PRICE = SPEC.sparse_fields.index("user"), SPEC.dense_fields.index("price")
CLICK, PURCHASE, SEARCH = range(3)
BLIND = {"fields": ("!user", "!price", "!title")}  # of the search task, unless it is said otherwise


def learner(model: dict[str, Any] | None = None, search: Any = BLIND, **more: Any) -> Learner:
    settings = {
        "tasks": {
            "click": {"kind": "binary", "listwise": 0.3},
            "purchase": {"kind": "funnel", "after": "click", "weight": 0.1},
            "search": {"kind": "listwise", "weight": 0.5, **search},
        },
        "model": {"name": "mmoe", "embedding_dim": 4, "hidden": 16, "tower": 8, "text_dim": 4}
        | (model or {}),
        "optimizer": {"dense_lr": 5e-3, "first_lr": 5e-3},
        **more,
    }
    return Learner(SPEC, Config.model_validate(settings), CPU)


def taught(model: Learner, steps: int = 8) -> Learner:
    for step in range(steps):
        model.step(rows(32, seed=1, first=32 * step))
    return model


def other_people(batch: Batch) -> Batch:
    """The same rows of other users, at other prices, under other titles."""
    sparse_BF, dense_BD = batch.sparse_BF.clone(), batch.dense_BD.clone()
    sparse_BF[:, USER] = (sparse_BF[:, USER] + 7) % 500 + 1
    dense_BD[:, PRICE] += 2.0
    return replace(batch, sparse_BF=sparse_BF, dense_BD=dense_BD, title_BE=batch.title_BE.flip(0))


def other_past(batch: Batch) -> Batch:
    """The same rows of people whose candidates come in another order."""
    return replace(batch, prior_B=-batch.prior_B)


WAYS: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in MODELS},
    "private": {"name": "mmoe", "private_fields": ("user", "item")},
    "fm": {"name": "shared_bottom", "interactions": "fm+dcn", "domain_gates": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_scores_do_not_depend_on_what_the_task_may_not_use(way: str) -> None:
    model, batch = taught(learner(WAYS[way])), rows(64, seed=2)
    here, there = model.predict(batch).prob_BT, model.predict(other_people(batch)).prob_BT
    assert torch.equal(here[:, SEARCH], there[:, SEARCH])
    assert (here[:, CLICK] != there[:, CLICK]).float().mean() > 0.9
    item_BF = batch.sparse_BF.clone()
    item_BF[:, 1] = (item_BF[:, 1] + 7) % 500 + 1  # what it may use it does use
    item = model.predict(replace(batch, sparse_BF=item_BF)).prob_BT
    assert (here[:, SEARCH] != item[:, SEARCH]).float().mean() > 0.9


def user_rows_moved(search: Any) -> Tensor:
    """By steps in which the labels of search alone are known; no missing ids."""
    model = learner(search=search, rehearsal={"loss": "none"})
    before_RH = model.state()["table_RH"].clone()
    batch = rows(64, seed=3)
    mask_BT = torch.zeros_like(batch.mask_BT)
    mask_BT[:, SEARCH] = True
    sparse_BF = batch.sparse_BF.clone()
    sparse_BF[:, USER] = sparse_BF[:, USER] % 100 + 1  # rows that no other field has
    sparse_BF[:, 1:] = sparse_BF[:, 1:] % 300 + 101
    for _ in range(3):
        model.step(replace(batch, mask_BT=mask_BT, sparse_BF=sparse_BF))
    moved_R = (model.state()["table_RH"] != before_RH).any(1)
    assert moved_R[101:].any()
    return moved_R[:101]


def test_nothing_of_a_hidden_field_learns_from_the_labels_of_the_task() -> None:
    assert not user_rows_moved(BLIND).any()
    assert user_rows_moved({}).any()


def test_a_gradient_balancer_sees_every_view() -> None:
    """Conflicts are measured where the shared part ends: of a restricted task too."""
    model = taught(learner(balancer={"name": "pcgrad"}))
    assert bool(model.affinity().isfinite().all())
    batch = rows(64, seed=2)
    blind = model.predict(other_people(batch)).prob_BT[:, SEARCH]
    assert torch.equal(model.predict(batch).prob_BT[:, SEARCH], blind)


def test_experts_are_told_as_every_task_sees_them() -> None:
    assert {"gate_entropy/click", "gate_entropy/search"} <= learner().health(rows(32)).keys()
    ple = learner({"name": "ple"})
    free = learner({"name": "ple"}, search={})
    assert ple.health(rows(32)).keys() == free.health(rows(32)).keys()


def test_a_published_list_does_not_depend_on_the_candidates_own_order_where_that_is_hidden() -> (
    None
):
    """Not even while the model has earned no trust yet, where other tasks publish that order."""
    batch = rows(64, seed=2)
    for fields, same in ((("!user", "!prior"), True), (("!user",), False)):
        model = taught(learner(search={"fields": fields}), 1)
        here, there = (model.predict(one, ranking=True) for one in (batch, other_past(batch)))
        assert torch.equal(here.prob_BT[:, SEARCH], there.prob_BT[:, SEARCH]) is same
        assert not torch.equal(here.prob_BT[:, CLICK], there.prob_BT[:, CLICK])


def test_patterns_allow_or_forbid() -> None:
    """`fields` that begin with ! take away from what the others name, or from all."""
    batch = rows(64, seed=2)
    for fields in (["item", "brand", "rate"], ["*", "!user", "!price", "!t*", "!query"]):
        model = taught(learner(search={"fields": fields}))
        blind = model.predict(other_people(batch)).prob_BT[:, SEARCH]
        assert torch.equal(model.predict(batch).prob_BT[:, SEARCH], blind)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ({"search": {"fields": ["!gender"]}}, r"'!gender', which names no field; the fields are: user"),
        ({"search": {"fields": ["user", "!u*"]}}, "nothing to read"),
        ({"purchase": {"fields": ["!user"]}}, r"hides user, but 'purchase' comes after 'click'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_the_remedy(tasks: dict[str, Any], said: str) -> None:
    whole = {name: dict(task) for name, task in Config().model_dump()["tasks"].items()}
    for name, given in tasks.items():
        whole[name] |= given
    with pytest.raises(ConfigError, match=said):
        Learner(SPEC, Config.model_validate({"tasks": whole}), CPU)


def test_a_later_step_of_a_funnel_may_read_more() -> None:
    """Its score is a product of both; what the first may not use stays hidden from the first."""
    tasks = {
        "click": {"kind": "binary", "fields": ["!user"]},
        "purchase": {"kind": "funnel", "after": "click"},
    }
    spec = replace(SPEC, tasks=("click", "purchase"))
    config = Config.model_validate({"tasks": tasks, "scoring": {"value": {"click": 1.0}}})
    model, batch = Learner(spec, config, CPU), rows(64, spec=spec)
    for _ in range(8):
        model.step(batch)
    here, there = model.predict(batch).prob_BT, model.predict(other_people(batch)).prob_BT
    assert (here != there).any(0).all()  # price and title are not hidden


def test_a_task_of_item_fields_alone_says_the_same_of_an_item_to_every_reader() -> None:
    """As subscribers see it: every list of the last cut, in which click tells readers apart."""
    ad = {"kind": "binary", "label": "click", "weight": 0.1, "fields": ["@item"]}
    config = small(tasks={**Config().model_dump()["tasks"], "ad": ad})
    _, results = folded(config, stream(config))
    said: dict[str, dict[str, set[float]]] = {"ad": {}, "click": {}}
    for output in results[-1].outputs:
        if output.key.startswith("user:") and output.value:
            for entry in json.loads(output.value)["lists"]["home"]:
                for task, values in said.items():
                    score = round(entry["scores"][task], 5)
                    values.setdefault(entry["item_id"], set()).add(score)
    assert any(len(scores) > 1 for scores in said["click"].values())
    assert all(len(scores) == 1 for scores in said["ad"].values())


def test_a_restricted_task_joins_a_running_lineage() -> None:
    """Under a wrapper's names nothing of the others would be found again, and the command would be refused."""
    config = small(
        learner={"batch_rows": 64, "first_rows": 64},
        join={"click_window_ms": 60_000, "purchase_window_ms": 1_200_000, "late_ms": 60_000},
    )
    blind = command("add_task", task="cart", kind="binary", fields=["!user*"])
    model, results = folded(config, stream(config, blind))
    assert [d["done"] for result in results for d in result.decisions] == [True]
    assert model.quality()["cart"]["labels"] > 0
    wrong = command("add_task", task="cart", kind="binary", fields=["!gender"])
    _, results = folded(config, stream(config, wrong))
    (decision,) = [d for result in results for d in result.decisions]
    assert not decision["done"]
    assert "names no field" in str(decision["reason"])
