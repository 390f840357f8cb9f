"""The guard of tasks that fall silent: a small dose of `benchmarks.label_stop`, with the arm that harms itself beside it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.label_stop import Arm, settings, stopped
from benchmarks.lesson_tape import Tape, record
from stream_mtl import learner
from stream_mtl.batch import Batch
from stream_mtl.joint_loss import JointRows, join_rows
from stream_mtl.rehearser import Rehearsed

WARM_UP, STOPPED, SEED = 9_000, 16_000, 13
# large steps and a small memory: what a silent task does to itself shows in a few hundred steps
SMALL = {
    "memory": {"rows": 1_000},
    "optimizer": {"dense_lr": 2e-3, "first_lr": 2e-3},
    "features": {"table_rows": 2**16},
}


@pytest.fixture(scope="module")
def tape() -> Tape:
    return record("season", WARM_UP + STOPPED, SEED, settings("on", **SMALL))


def silenced(tape: Tape) -> Arm:
    return stopped(tape, settings("on", **SMALL), ["click"], WARM_UP)["click"]


def a_mean_of_their_own(fresh: Batch, rehearsed: Sequence[Rehearsed]) -> JointRows:
    """The naive joint rows: the remembered rows of a silent task are its whole loss."""
    rows = join_rows(fresh, rehearsed)
    silent_T = ~fresh.mask_BT.any(0) & (rows.share_BT.sum(0) > 0)
    rows.share_BT[:, silent_T] /= rows.share_BT[:, silent_T].sum(0)
    return rows


def test_a_task_whose_labels_stop_keeps_what_it_knew(tape: Tape) -> None:
    assert silenced(tape).lost < 1.0


def test_a_silent_task_that_is_rehearsed_as_loudly_as_a_fresh_one_learns_its_memory_by_heart(
    tape: Tape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The naive arm beside it: the guard can fail."""
    monkeypatch.setattr(learner, "join_rows", a_mean_of_their_own)
    assert silenced(tape).lost > 2.5
