"""Alarms of the evaluation when what is served gets worse or miscalibrated."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from stream_mtl import batch as batches
from stream_mtl import config as settings
from stream_mtl import state as states
from stream_mtl.batch import Spec
from stream_mtl.cut import DriftAlarm
from stream_mtl.drift.page_hinkley import PageHinkley
from stream_mtl.drift_watch import OPTIONS, DriftWatch
from stream_mtl.errors import ConfigError
from stream_mtl.evaluation import Evaluation
from stream_mtl.prequential import logits

TASKS = ("click", "purchase")
ON = settings.Drift()
Floats = npt.NDArray[np.float64]


def honest(count: int, rate: float = 0.1, seed: int = 0) -> tuple[Floats, Floats]:
    """Logits that are right, with labels drawn by them."""
    random = np.random.default_rng(seed)
    logit = random.normal(np.log(rate / (1 - rate)), 1.5, count)
    return logit, (random.random(count) < 1 / (1 + np.exp(-logit))).astype(float)


def alarms(
    watch: DriftWatch, logit: Floats, label: Floats, task: str = "click"
) -> list[DriftAlarm]:
    found: list[DriftAlarm] = []
    for start in range(0, len(logit), 500):
        watch.observe(task, logit[start : start + 500], label[start : start + 500])
        found += watch.take()
    return found


@pytest.mark.parametrize("rate", [0.005, 0.1, 0.5])
def test_a_model_that_is_right_gives_no_alarm(rate: float) -> None:
    """Over 100,000 labels."""
    assert alarms(DriftWatch(ON, TASKS), *honest(100_000, rate)) == []


@pytest.mark.parametrize("options", [{}, {"delta": 0.1}])
def test_river_s_own_tolerance_or_fading_would_alarm_by_chance(options: dict[str, float]) -> None:
    """Power: why Page-Hinkley has settings of its own here. With these it is quiet on the same numbers."""
    numbers = np.random.default_rng(0).normal(size=40_000).tolist()
    theirs, ours = PageHinkley(tests=4, **options), PageHinkley(tests=4, **OPTIONS["page_hinkley"])
    assert _alarms(theirs, numbers) > 0
    assert _alarms(ours, numbers) == 0


def _alarms(detector: PageHinkley, numbers: list[float]) -> int:
    found = 0
    for number in numbers:
        detector.update(number)
        found += detector.drift
    return found


@pytest.mark.parametrize("factor,rose", [(2.0, True), (0.5, False)])
def test_rates_that_change_are_a_calibration_alarm(factor: float, rose: bool) -> None:
    """Twice or half as many clicks as was said: found within 5,000 labels, with its direction."""
    logit, label = honest(30_000)
    watch = DriftWatch(ON, TASKS)
    assert alarms(watch, logit, label) == []
    said = logits(1 / (1 + np.exp(-logit[:5_000])) / factor)
    found = alarms(watch, said, label[:5_000])
    assert DriftAlarm("click", "calibration", rose) in found
    assert watch.drifted() == ("click",)


@pytest.mark.parametrize("name", ["adwin", "ddm", "page_hinkley"])
def test_tastes_that_turn_round_are_an_entropy_alarm(name: str) -> None:
    """The same rates, but the order of the rows means nothing any more."""
    logit, label = honest(30_000)
    watch = DriftWatch(settings.Drift(entropy=name), TASKS)
    assert alarms(watch, logit, label) == []
    found = alarms(watch, np.random.default_rng(1).permutation(logit)[:8_000], label[:8_000])
    assert DriftAlarm("click", "entropy", True) in found


def test_a_model_that_gets_better_is_no_alarm() -> None:
    """What a young model does all the time."""
    logit, label = honest(30_000)
    watch = DriftWatch(ON, TASKS)
    base = np.full(30_000, np.log(label.mean() / (1 - label.mean())))
    assert alarms(watch, base, label) == []
    assert alarms(watch, logit, label) == []


def test_a_task_counts_as_drifted_until_enough_labels_came_after_the_alarm() -> None:
    logit, label = honest(60_000)
    watch = DriftWatch(settings.Drift(recent=4_000), TASKS)
    alarms(watch, logit[:20_000], label[:20_000])
    worse = logit[:2_000] - 3.0
    assert alarms(watch, worse, label[:2_000])
    assert watch.drifted() == ("click",)
    alarms(watch, logit[20_000:], label[20_000:])
    assert watch.drifted() == ()


def test_a_single_certain_mistake_is_no_alarm() -> None:
    """A young model may say 1e-7 of what happens."""
    logit, label = honest(5_000)
    logit[4_000], label[4_000] = -16.0, 1.0
    assert alarms(DriftWatch(ON, TASKS), logit, label) == []


def test_it_is_the_same_in_whatever_pieces_labels_come() -> None:
    logit, label = honest(3_000)
    one, other = DriftWatch(ON, TASKS), DriftWatch(ON, TASKS)
    one.observe("click", logit, label)
    for start in range(0, 3_000, 7):
        other.observe("click", logit[start : start + 7], label[start : start + 7])
    assert _json(one) == _json(other)


def _json(watch: DriftWatch) -> str:
    return json.dumps(watch.state(), sort_keys=True)


def observe(evaluation: Evaluation, logit: Floats, label: Floats) -> list[DriftAlarm]:
    spec = Spec((), (), TASKS, table_rows=1, text_dim=0)
    found: list[DriftAlarm] = []
    for start in range(0, len(logit), 100):
        part = slice(start, start + 100)
        served_BT = torch.tensor(1 / (1 + np.exp(-logit[part]))).float()
        label_BT = torch.tensor(label[part]).float()
        mask_BT = torch.ones(len(label_BT), 2, dtype=torch.bool)
        mask_BT[:, 1] = False
        rows = replace(
            batches.empty(spec, len(label_BT)),
            label_BT=torch.stack((label_BT, label_BT), 1),
            mask_BT=mask_BT,
        )
        evaluation.observe(torch.stack((served_BT, served_BT), 1), rows)
        found += evaluation.take_drifts()
    return found


def test_the_evaluation_feeds_it_and_goes_on_the_same_after_a_restore() -> None:
    """Kill and resume before the alarm; the task without labels is never named."""
    spec = Spec((), (), TASKS, table_rows=1, text_dim=0)
    one, other = (Evaluation(settings.Evaluation(), spec, drift=ON) for _ in range(2))
    logit, label = honest(12_345)
    assert observe(one, logit, label) == []
    other.restore(
        {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in one.state().items()}
    )
    worse, label = logits(1 / (1 + np.exp(-logit[:4_000])) / 3), label[:4_000]
    first, second = (observe(each, worse, label) for each in (one, other))
    assert first == second
    assert {alarm.task for alarm in first} == {"click"}
    assert one.drifted() == other.drifted() == ("click",)
    assert states.digest(one.state()) == states.digest(other.state())


def test_off_it_keeps_nothing_and_a_state_without_it_can_be_restored() -> None:
    spec = Spec((), (), TASKS, table_rows=1, text_dim=0)
    off, on = (
        Evaluation(settings.Evaluation(), spec),
        Evaluation(settings.Evaluation(), spec, drift=ON),
    )
    assert observe(off, *honest(2_000)) == []
    assert not [name for name in off.state() if name.startswith("drift/")]
    on.restore(off.state())
    assert on.drifted() == ()


@pytest.mark.parametrize(
    "given,valid",
    [
        ({"entropy": "adwim"}, "adwin, ddm, kswin, page_hinkley"),
        ({"calibration": "ddm"}, "adwin, kswin"),
    ],
)
def test_a_detector_that_cannot_watch_is_refused_with_those_that_can(
    given: dict[str, str], valid: str
) -> None:
    """DDM takes errors alone, and a miss on average is none."""
    ((signal, name),) = given.items()
    with pytest.raises(ConfigError, match=rf"drift\.{signal} = '{name}' .*: {valid}"):
        DriftWatch(settings.Drift(**given), TASKS)
