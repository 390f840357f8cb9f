"""Nothing that names an erased person is left in the state, whatever is switched on, and it stays so after a rollback."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import torch

from stream_mtl import build
from stream_mtl.config import Config
from stream_mtl.erasure import KEPT_MS, Erasures, own_rows
from stream_mtl.hashing import hash64
from stream_mtl.pipeline import Pipeline
from stream_mtl.state import State, canonical_json
from tests.folds import NOON, shop_cuts, small
from tests.unit.test_task_set import command, kept, stream

WINDOWS = {"click_window_ms": 60_000, "purchase_window_ms": 1_200_000, "late_ms": 60_000}
LEARNING = {"batch_rows": 64, "first_rows": 64}
EVERYTHING: dict[str, Any] = {
    "gate": {"publish": True, "window": 100_000},
    "retrieval": {"learned": True, "rows": 512, "first_steps": 0},
    "memory": {"policy": "two_store"},
    "fine_tune": {"tasks": ["click"]},
    "features": {"rest": "clicked"},
}


def traces(state: State, user_id: str) -> list[str]:
    """Names of the state that hold the id's bytes, or one of its hashes as bytes or as a number."""
    hashes = [hash64(user_id), hash64(user_id, "user")]
    needles = [user_id.encode(), *(struct.pack("<q", one) for one in hashes)]
    numbers = [str(one).encode() for one in hashes]
    found = []
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            raw = value.detach().cpu().contiguous().numpy().tobytes()
            hit = any(needle in raw for needle in needles)
        else:
            raw = canonical_json(value)
            hit = user_id.encode() in raw or any(number in raw for number in numbers)
        if hit:
            found.append(name)
    return found


def busiest(model: Pipeline) -> str:
    """A user whom the state knows in as many places as possible."""
    users = model.parts.shop.users.slots.index
    return max(users, key=lambda user: len(traces(model.state(), user)))


def erased(model: Pipeline, config: Config, user: str) -> dict[str, Any]:
    """Erase by a command in a cut of its own; its decision."""
    said = command("erase_user", user_id=user)
    from stream_mtl.cut import Cut
    from tests.folds import as_records

    (record,) = as_records([said])
    result = model.step(Cut(model.cuts, (record,), (), None))
    assert [o.key for o in result.outputs if o.value is None] == [f"user:{user}"]
    (decision,) = result.decisions
    assert user not in json.dumps(decision)
    return dict(decision)


@pytest.mark.parametrize("sections", [{}, EVERYTHING], ids=["defaults", "everything on"])
def test_no_byte_of_an_erased_user_is_left(sections: dict[str, Any]) -> None:
    config = small(**{"learner": LEARNING, "join": WINDOWS, **sections})
    model = build(config, "test")
    for cut in shop_cuts(config, 1_500):
        model.step(cut)
    user = busiest(model)
    before = traces(model.state(), user)
    assert len(before) >= 5, before  # else the test says nothing
    decision = erased(model, config, user)
    assert traces(model.state(), user) == []
    assert decision["counts"]["memory_rows"] > 0
    assert decision["counts"]["histories"] == 1


def test_rows_that_stand_for_the_user_alone_are_zeroed_and_shared_ones_are_not() -> None:
    config = small(learner=LEARNING, join=WINDOWS, features={"table_rows": 128})
    model = build(config, "test")
    for cut in shop_cuts(config, 1_200):
        model.step(cut)
    rows = {
        user: own_rows(model.parts, hash64(user)) for user in model.parts.shop.users.slots.index
    }
    shared = [user for user, own in rows.items() if not own]
    alone = [user for user, own in rows.items() if own]
    assert shared, "with so few rows some must be shared"
    before = model.state()["learner/table_RH"].clone()
    for user in (shared[0], *alone[:1]):
        erased(model, config, user)
    table = model.state()["learner/table_RH"]
    changed = (table != before).any(1).nonzero().flatten().tolist()
    assert changed == [row for user in alone[:1] for row in rows[user]]
    assert not table[changed].any()


def test_a_rollback_to_before_an_erasure_erases_again() -> None:
    config = small(learner=LEARNING, join=WINDOWS)
    cuts = stream(config)
    model = build(config, "test")
    for cut in cuts[: len(cuts) // 2]:
        model.step(cut)
    old, at = kept(model), model.cuts - 1
    for cut in cuts[len(cuts) // 2 :]:
        model.step(cut)
    user = next(u for u in model.parts.shop.users.slots.index if own_rows(model.parts, hash64(u)))
    rows = own_rows(model.parts, hash64(user))
    assert old["learner/table_RH"][rows].any()
    erased(model, config, user)
    model.roll_back(old, at)
    assert not model.state()["learner/table_RH"][rows].any()
    assert traces(model.state(), user) == []


def test_erasures_are_remembered_as_long_as_an_older_state_may_come_back() -> None:
    done = Erasures()
    done.note(5, NOON, [1, 2])
    done.note(9, NOON + 1_000, [3])
    assert done.since(4) == [1, 2, 3]
    assert done.since(5) == [3]
    assert done.due(NOON) == 5
    assert done.due(NOON - 1) == -1
    done.note(11, NOON + KEPT_MS + 1, [])
    assert done.since(0) == [3]
