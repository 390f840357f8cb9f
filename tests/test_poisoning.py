"""The guard against poisoning: a small dose of `benchmarks.soak.poisoning`, with the undefended fold beside it."""

from __future__ import annotations

import pytest

from benchmarks.ladder import leave_out_lists
from benchmarks.soak.poisoning import SAFE, UNDEFENDED, Attacked, config_of, shares
from stream_mtl import build
from stream_mtl.files import cuts_of_records
from stream_mtl.hashing import hash64
from stream_mtl.pipeline import Pipeline
from stream_mtl.simulator.attack import USER

ROOM = 2_000  # rows of a memory
SMALL = (f"memory.rows={ROOM}",)
HONEST = 1_500


def folded(*assignments: str) -> Pipeline:
    config = config_of([*SMALL, *assignments])
    pipeline = build(config)
    leave_out_lists(pipeline)
    for cut in cuts_of_records(Attacked("attack", HONEST, 3).records(), config):
        pipeline.step(cut)
    return pipeline


@pytest.fixture(scope="module")
def arms() -> dict[str, Pipeline]:
    return {"on": folded(*SAFE), "off": folded(*UNDEFENDED)}


def test_one_id_with_half_the_traffic_holds_a_hundredth_of_every_memory(
    arms: dict[str, Pipeline],
) -> None:
    """Of the click memory's room; it holds whole lists. Without the defences the id holds a good part of it."""
    rows = arms["on"].parts.learner.memory_rows()["click"]
    assert shares(arms["on"])["click"][1] * rows <= 0.01 * ROOM
    assert shares(arms["off"])["click"][1] > 0.2


def test_its_rows_are_left_out_of_learning_and_counted(arms: dict[str, Pipeline]) -> None:
    limited, naive = arms["on"].totals, arms["off"].totals
    assert limited["left_out_rows"] > 0.8 * (naive["example_rows"] - limited["example_rows"])
    assert naive["left_out_rows"] == naive["uncounted_events"] == 0
    assert limited["uncounted_events"] > 0.5 * HONEST


def test_its_items_gain_little_in_the_counts(arms: dict[str, Pipeline]) -> None:
    """Acts of the attacker that counted, over all that did: half of them, or next to none."""

    def counted(pipeline: Pipeline) -> float:
        users = pipeline.parts.shop.users
        acts = users.columns.count[:, 1:].sum(1)
        return float(acts[users.slots.index[USER]] / acts.sum())

    assert counted(arms["off"]) > 0.4
    assert counted(arms["on"]) < 0.2


def test_an_erased_attacker_leaves_no_trace_in_the_defences(arms: dict[str, Pipeline]) -> None:
    parts = arms["on"].parts
    parts.throttle.erase(USER)
    parts.row_limit.erase(hash64(USER, "user"))
    parts.shop.erase_user(USER)
    assert USER not in str(parts.throttle.state())
    assert hash64(USER, "user") not in parts.row_limit.state()["user"].tolist()
    assert hash64(USER) not in parts.shop.state()["influence/user"].tolist()
