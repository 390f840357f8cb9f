"""Spans end at drift and at boundaries in event time; the ledger says so, and a restart changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stream_mtl import build, spans
from stream_mtl.cut import DriftAlarm
from stream_mtl.pipeline import Pipeline
from stream_mtl.spans import LEAST, Spans
from tests.folds import shop_cuts, small

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
HOUR = 3_600_000
ALARM = DriftAlarm("search", "entropy", True)


def test_an_alarm_ends_a_span_of_some_length_and_a_shorter_one_goes_on() -> None:
    found = Spans(0, on=True)
    assert found.ended(HOUR, [ALARM], LEAST - 1) is None
    assert found.ended(HOUR, [], LEAST) is None
    assert found.ended(HOUR, [ALARM, ALARM], LEAST) == {"drifted": ["search"], "step": LEAST}
    assert found.ended(HOUR, [ALARM], LEAST + 1) is None


def test_a_boundary_in_time_ends_one_wherever_reading_began() -> None:
    for start in (0, HOUR // 2, HOUR - 1):
        found = Spans(HOUR, on=True)
        assert found.ended(5 * HOUR + start, [], 100) is None
        assert found.ended(6 * HOUR, [], 200) == {"span_ms": HOUR, "step": 200}
        assert found.ended(6 * HOUR + 1, [], 300) is None


def test_a_boundary_within_a_short_span_is_made_up_for() -> None:
    found = Spans(HOUR, on=True)
    found.ended(0, [], 0)
    assert found.ended(HOUR, [], LEAST - 1) is None
    assert found.ended(HOUR, [], LEAST) is not None


def test_events_out_of_order_do_not_end_a_span_twice() -> None:
    found = Spans(HOUR, on=True)
    found.ended(0, [], 0)
    assert found.ended(HOUR, [], 100) is not None
    assert found.ended(HOUR - 1, [], 200) is None
    assert found.ended(HOUR, [], 300) is None


def fold(rehearsal: dict[str, Any], alarms: bool = False, split: int = 0) -> tuple[Pipeline, Any]:
    """A small shop; `split`: cut after which the fold is restored into a new one."""
    config = small(learner={"batch_rows": 64, "first_rows": 64}, rehearsal=rehearsal)

    def fresh() -> Pipeline:
        model = build(config, "test")
        if alarms:
            model.parts.evaluation.take_drifts = lambda: (ALARM,)  # type: ignore[method-assign]
        return model

    model, decisions = fresh(), []
    for number, cut in enumerate(shop_cuts(config, 900)):
        if split and number == split:
            state = {
                k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in model.state().items()
            }
            model = fresh()
            model.restore(state)
        decisions += model.step(cut).decisions
    return model, [d for d in decisions if d["kind"] == "consolidate"]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "LEAST", 4)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", ["mas", "lwf"])
def test_the_ledger_tells_of_every_span_and_a_restart_changes_nothing(name: str) -> None:
    way = {"loss": "lwf", "lwf_every": 0} if name == "lwf" else {"regularizer": name}
    for more, alarms in (({"span_ms": 600_000}, False), ({}, True)):
        whole, ended = fold(way | more, alarms)
        assert len(ended) > 1
        assert all(("drifted" in d) == alarms for d in ended)
        again, ended_again = fold(way | more, alarms, split=len(shop_cuts(whole.config, 900)) // 2)
        assert ended_again == ended
        assert again.state_digest() == whole.state_digest()


@pytest.mark.usefixtures("short")
def test_where_nothing_listens_nothing_is_decided_and_nothing_is_kept() -> None:
    model, ended = fold({"span_ms": 600_000}, alarms=True)
    assert ended == []
    assert not [name for name in model.state() if name.startswith("spans/")]


@pytest.mark.usefixtures("short")
def test_the_end_of_a_span_is_before_what_came_after_it_is_learned() -> None:
    """The step in the decision is the one that the copy of the model is of."""
    model, ended = fold({"loss": "lwf", "lwf_every": 0, "span_ms": 600_000})
    assert int(model.parts.learner.state()["rehearsal/taught"]) == ended[-1]["step"]
