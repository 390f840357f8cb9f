"""A state goes on under another configuration: what fits is kept bit for bit, the rest is named and starts afresh."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stream_mtl import build
from stream_mtl.carry_over import carried, part_of
from stream_mtl.errors import StateError
from stream_mtl.pipeline import Pipeline
from stream_mtl.state import State
from tests.folds import shop_cuts, small

WINDOWS = {"click_window_ms": 60_000, "purchase_window_ms": 1_200_000, "late_ms": 60_000}
BASE: dict[str, Any] = {"learner": {"batch_rows": 64, "first_rows": 64}, "join": WINDOWS}


def config_with(**sections: Any) -> Any:
    return small(**{k: {**BASE.get(k, {}), **sections.get(k, {})} for k in BASE | sections})


@pytest.fixture(scope="module")
def cuts() -> Any:
    return shop_cuts(config_with(), 1_200)


@pytest.fixture(scope="module")
def saved(cuts: Any) -> State:
    model = build(config_with(), "before")
    for cut in cuts[: len(cuts) // 2]:
        model.step(cut)
    assert model.totals["steps"] > 0
    return {
        name: value.clone() if isinstance(value, torch.Tensor) else value
        for name, value in model.state().items()
    }


def same(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


CHANGES: list[tuple[dict[str, Any], set[str]]] = [
    ({}, set()),
    ({"optimizer": {"dense_lr": 0.01}}, set()),
    ({"model": {"hidden": 32}}, {"network", "gate"}),
    ({"model": {"name": "cgc"}}, {"network", "gate"}),
    ({"memory": {"rows": 300}}, {"memory click", "memory purchase", "memory search"}),
    ({"features": {"history": 20}}, {"shop", "windows"}),
    (
        {"features": {"table_rows": 8192}},
        {
            "embeddings", "windows", "pending", "evaluation", "gate",
            "memory click", "memory purchase", "memory search",
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=[str(c) for c, _ in CHANGES])
def test_only_the_parts_that_no_longer_fit_start_afresh(
    saved: State, cuts: Any, change: dict[str, Any], expected: set[str]
) -> None:
    config = config_with(**change)
    found = carried(saved, lambda: build(config, "after"))
    present = {part_of(name) for name in found.state}
    assert set(found.afresh) == expected & present
    model = build(config, "after")
    model.restore(found.state)
    now = model.state()
    for name, value in saved.items():
        if part_of(name) not in found.afresh and name in now:
            assert same(now[name], value), name
    steps = model.totals["steps"]
    for cut in cuts[len(cuts) // 2 :]:
        model.step(cut)
    assert model.totals["steps"] > steps  # it goes on learning


def test_a_task_added_in_the_config_leaves_the_others_as_they_were(saved: State, cuts: Any) -> None:
    tasks = {name: task.model_dump() for name, task in config_with().tasks.items()}
    config = config_with(tasks={**tasks, "cart": {"kind": "funnel", "after": "click"}})
    found = carried(saved, lambda: build(config, "after"))
    assert {"network", "memory click"}.isdisjoint(found.afresh)
    model = build(config, "after")
    model.restore(found.state)
    assert torch.equal(
        model.state()["learner/model/expert.weight"], saved["learner/model/expert.weight"]
    )
    for cut in cuts[len(cuts) // 2 :]:
        model.step(cut)
    assert model.summary()["tasks"]["cart"]["labels"] > 0


def test_an_older_state_without_a_name_that_is_new_takes_the_empty_value(saved: State) -> None:
    older = {name: value for name, value in saved.items() if not name.startswith("recall/")}
    found = carried(older, lambda: build(config_with(), "after"))
    fresh: Pipeline = build(config_with(), "after")
    assert same(found.state["recall/place"], fresh.state()["recall/place"])
    assert found.afresh == ()
    assert same(found.state["learner/table_RH"], saved["learner/table_RH"])


def test_a_state_of_which_nothing_fits_is_refused() -> None:
    with pytest.raises(StateError, match="nothing of the saved state fits"):
        carried({"other/name": 1}, lambda: build(config_with(), "after"))
