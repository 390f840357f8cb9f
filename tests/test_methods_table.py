"""The table of methods: what its tapes say is what a fold would have said, and its arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.ladder import leave_out_lists
from benchmarks.lesson_tape import Pupil, Tape, record
from benchmarks.methods_table import (
    AGAIN,
    ARMS,
    COLUMNS,
    DEFAULT,
    Row,
    arms_of,
    averaged,
    config_of,
    lost,
    markdown,
    phase_ends,
    to_judge,
)
from benchmarks.shop_stream import ShopStream
from stream_mtl import Config, build
from stream_mtl import state as states
from stream_mtl.balancers import BALANCERS
from stream_mtl.batch import Batch
from stream_mtl.learner import Prediction
from stream_mtl.models import MODELS
from stream_mtl.simulator.scenario import SCENARIOS, START_MS
from stream_mtl.testing_rows import SPEC

EVENTS, SEED = 1_500, 13
PHASE_MS = SCENARIOS["season"].phase_ms


@pytest.fixture(scope="module")
def config() -> Config:
    tasks = {name: task.model_dump() for name, task in Config().tasks.items()}
    tasks["purchase"]["keep_negatives"] = 0.2
    cut, features = {"file_span_ms": 300_000}, {"table_rows": 2**16}
    return Config.model_validate({"tasks": tasks, "cut": cut, "features": features})


@pytest.fixture(scope="module")
def tape(config: Config) -> Tape:
    return record("steady", EVENTS, SEED, config, shown=True)


def test_of_a_tape_is_said_what_the_fold_said_when_rows_were_shown(
    tape: Tape, config: Config
) -> None:
    """With negatives left out; what is learned of it is the same bit for bit."""
    pipeline, said = build(config), list[torch.Tensor]()
    leave_out_lists(pipeline)
    usual = pipeline.parts.learner.predict

    def predict(batch: Batch, ranking: bool = False) -> Prediction:
        said.append(usual(batch, ranking).prob_BT)
        return usual(batch, ranking)

    pipeline.parts.learner.predict = predict  # type: ignore[method-assign]
    pipeline.parts.evaluation.evaluate_probes = lambda predict: None  # type: ignore[method-assign]
    for cut in ShopStream("steady", EVENTS, SEED).cuts(config):
        pipeline.step(cut)
    pupil = Pupil(tape.spec, config)
    pupil.learn(tape.between(0, 700))
    pupil.learn(tape.between(700, EVENTS))
    assert pipeline.totals["steps"] > 10
    # rows of several cuts are asked together here: sums are rounded otherwise
    torch.testing.assert_close(torch.cat(pupil.said), torch.cat(said), rtol=1e-5, atol=1e-6)
    assert states.digest(pupil.learner.state()) == states.digest(pipeline.parts.learner.state())


def test_held_out_rows_are_judged_too_and_the_truth_knows_more_than_the_base_rate(
    tape: Tape,
) -> None:
    judge = to_judge(tape)
    held_out = sum(int(batch.mask_BT[:, 0].sum()) for _, batch in tape.held_out)
    known_N = judge.known_NT[:, 0]
    assert held_out > 100
    told = sum(int(b.mask_BT[:, 0].sum()) for _, (kind, b) in tape.told if b and kind == "add")
    assert known_N.sum() == pytest.approx(told + held_out, rel=0.02)  # some labels are told twice
    true_N, label_N = judge.truth_NT[known_N, 0], judge.label_NT[known_N, 0]
    there_N = ~np.isnan(true_N)
    assert true_N[there_N].mean() == pytest.approx(label_N[there_N].mean(), rel=0.15)
    clicked_N = there_N & (label_N > 0)
    assert true_N[clicked_N].mean() > 1.5 * true_N[there_N & (label_N == 0)].mean()


def test_a_tape_that_is_not_asked_for_shown_rows_has_none(config: Config) -> None:
    plain = record("steady", 300, SEED, config)
    assert not plain.truth
    assert not {kind for _, (kind, _) in plain.told} & {"shown"}


def test_a_phase_ends_with_the_first_cut_behind_it() -> None:
    day = PHASE_MS
    clock = [
        (10, START_MS), (20, START_MS + day - 1), (30, START_MS + day), (35, 0),
        (40, START_MS + day + 5), (50, START_MS + 2 * day),
    ]  # fmt: skip
    tape = Tape(SPEC, clock=clock)
    assert phase_ends(tape, "season") == [30, 50]
    assert phase_ends(tape, "steady") == []


def test_forgetting_is_what_two_phases_of_other_domains_took() -> None:
    probe = {(1, 1): 70.0, (1, 3): 66.5, (0, 0): 60.0}
    assert lost(probe, 1) == 3.5
    assert math.isnan(lost(probe, 0))  # the stream ended before


def row(cost: float, click: float = 0.9) -> Row:
    return Row({name: math.nan for name in COLUMNS} | {"cost": cost, "click NE": click})


def test_a_cost_is_over_the_defaults_of_the_same_seed() -> None:
    rows = {DEFAULT: [row(1.0, 0.9), row(4.0, 0.8)], "slow": [row(2.0), row(4.0)]}
    table = averaged(rows)
    assert table["slow"]["cost"] == 1.5  # 2/1 and 4/4, not 6/5
    assert table[DEFAULT]["click NE"] == pytest.approx(0.85)


def test_the_printed_table_leaves_out_what_a_scenario_has_no_figure_for() -> None:
    told = markdown("steady", averaged({DEFAULT: [row(1.0)]}))
    assert told.splitlines()[0] == "| steady | click NE | cost |"
    assert told.splitlines()[2] == "| default | 0.9000 | 1.00 |"


def test_every_model_and_balancer_has_an_arm_that_is_a_valid_configuration() -> None:
    names = {config_of("season", given).model.name for given in ARMS.values()}
    balancers = {config_of("season", given).balancer.name for given in ARMS.values()}
    assert (names, balancers) == (set(MODELS), set(BALANCERS))


def test_the_default_is_measured_first_and_last() -> None:
    given = arms_of(["model.dropout=0.1;balancer.name=sum"], [])
    assert list(given) == [DEFAULT, "model.dropout=0.1;balancer.name=sum", AGAIN]
    assert given["model.dropout=0.1;balancer.name=sum"] == (
        "model.dropout=0.1",
        "balancer.name=sum",
    )
