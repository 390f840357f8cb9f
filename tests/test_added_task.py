"""The guard of tasks that join late: a small dose of `benchmarks.added_task`; and of the tape that `label_stop` learns from."""

from __future__ import annotations

import pytest

from benchmarks.added_task import ADDITIONS, ALONE, Judged, judged
from benchmarks.label_stop import settings
from benchmarks.ladder import leave_out_lists
from benchmarks.lesson_tape import Pupil, record
from benchmarks.shop_stream import ShopStream
from stream_mtl import build
from stream_mtl import state as states

SEED = 13
# large steps: what tasks do to each other shows in a few hundred of them
SMALL = {
    "memory": {"rows": 1_000},
    "optimizer": {"dense_lr": 2e-3, "first_lr": 2e-3},
    "features": {"table_rows": 2**16},
}


@pytest.fixture(scope="module")
def added() -> dict[str, Judged]:
    dwell = ADDITIONS["dwell"]
    additions = {"dwell": dwell, "greedy": {**dwell, "weight": 30.0}}
    return judged(SEED, 5_000, 5_000, additions, settings("on", **SMALL))


@pytest.mark.parametrize("task", ["click", "search"])
def test_a_task_that_is_added_costs_the_others_nothing(added: dict[str, Judged], task: str) -> None:
    alone, with_dwell = added[ALONE], added["dwell"]
    assert with_dwell.auc[task] > alone.auc[task] - 0.6
    assert with_dwell.probe[task] > alone.probe[task] - 1.0


def test_a_task_of_overwhelming_weight_does_cost_the_others(added: dict[str, Judged]) -> None:
    """The naive arm beside it: the stream shows what an addition takes."""
    assert added["greedy"].auc["click"] < added[ALONE].auc["click"] - 1.2


def test_a_tape_teaches_what_the_fold_learns() -> None:
    """Bit for bit: arms that share a tape learn as folds of their own would."""
    config = settings("on", **SMALL)
    pipeline = build(config)
    leave_out_lists(pipeline)
    for cut in ShopStream("season", 1_500, SEED).cuts(config):
        pipeline.step(cut)
    tape = record("season", 1_500, SEED, config)
    pupil = Pupil(tape.spec, config)
    half = 700
    pupil.learn(tape.between(0, half))
    pupil = pupil.twin()
    pupil.learn(tape.between(half, 1_500))
    assert pipeline.totals["steps"] > 10
    assert pupil.learner.version == pipeline.totals["steps"]
    assert states.digest(pupil.learner.state()) == states.digest(pipeline.parts.learner.state())
