"""Two detectors a task: does what was served get worse, and does it still say the right rates?

Every `drift.rows` labels of a task make one number for each of its detectors:

    entropy      mean log loss over the entropy of the task's base rate (an average that fades): 1 is as good
                 as the base rate. Only a rise is an alarm; a young model gets better all the time. A
                 detector of errors (DDM) is told whether it is above 1: worse than knowing the rate.
    calibration  Σ (label - p) / sqrt(Σ p (1 - p)): about standard normal while p is right

Groups of rows, because a single loss of a rare event is 0 or enormous, and because they cost a sixteenth.
Thresholds account for all tests that run side by side, tasks x signals. Legend: N labels of one task,
G groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stream_mtl import config as settings
from stream_mtl.cut import DriftAlarm
from stream_mtl.drift import DETECTORS
from stream_mtl.drift.base import Detector
from stream_mtl.errors import ConfigError
from stream_mtl.prequential import Floats, entropy, log_loss
from stream_mtl.state import State, nest, unnest

SIGNALS = ("entropy", "calibration")
# Of standard normal numbers river's tolerance of .005 alarms by chance every 1,100 numbers (measured). With .1 but
# its fading of .9999 it is every 15,000: the fading cancels the tolerance once sums are as old as it remembers.
# With .1 and no fading none came in 8 x 300,000, and rates that are a quarter off are found in 5,000 labels.
OPTIONS: dict[str, dict[str, float]] = {"page_hinkley": {"delta": 0.1, "alpha": 1.0}}
_BINARY = {name for name, new in DETECTORS.items() if new().binary}  # of errors, 0 or 1
WILD = 5.0  # standard deviations that one group counts at most: a single row must not be an alarm
POSITIVES = 20  # of a task, before its base rate means anything
FADING = 0.999  # of the base rate, a label: it remembers a thousand


class TaskWatch:
    """The detectors of one task, its base rate, and the labels that wait for their group to be full."""

    def __init__(self, config: settings.Drift, tests: int) -> None:
        self._rows, self._recent = config.rows, config.recent
        self._detectors = {
            signal: _detector(signal, getattr(config, signal), tests) for signal in SIGNALS
        }
        self._labels = self._positives = 0.0  # faded
        self._seen = 0  # positives, in all
        self._quiet = config.recent  # labels since the newest alarm, up to `recent`
        self._waiting: list[list[float]] = []  # loss, probability, label

    @property
    def drifted(self) -> bool:
        return self._quiet < self._recent

    def observe(self, logit_N: Floats, label_N: Floats) -> list[tuple[str, bool]]:
        """Labels in the order in which they came; returns (signal, rose) of the alarms."""
        loss_N = log_loss(logit_N, label_N > 0.5)
        rows_N3 = np.stack((loss_N, 1 / (1 + np.exp(-logit_N)), label_N), 1)
        if self._waiting:
            rows_N3 = np.concatenate((np.array(self._waiting), rows_N3))
        groups = len(rows_N3) // self._rows
        self._waiting = rows_N3[groups * self._rows :].tolist()
        self._quiet = min(self._recent, self._quiet + len(label_N))
        loss_NG, prob_NG, label_NG = rows_N3[: groups * self._rows].reshape(-1, self._rows, 3).T
        # all groups at once: called for each of them, numpy took longer than the detectors
        spread_G = np.sqrt((prob_NG * (1 - prob_NG)).sum(0))
        of_G4 = np.stack((label_NG.sum(0), loss_NG.mean(0), prob_NG.sum(0), spread_G), 1)
        found = [alarm for group in of_G4.tolist() for alarm in self._group(*group)]
        if found:
            self._quiet = 0
        return found

    def _group(
        self, positives: float, loss: float, predicted: float, spread: float
    ) -> list[tuple[str, bool]]:
        """What the detectors say of labels, mean loss, expected positives and their standard deviation."""
        keep = FADING**self._rows
        self._labels = self._labels * keep + self._rows
        self._positives = self._positives * keep + positives
        self._seen += int(positives)
        rate = self._positives / self._labels
        if self._seen < POSITIVES or not 0 < rate < 1:
            return []
        missed = positives - predicted
        numbers = {
            "entropy": loss / entropy(rate),
            "calibration": min(WILD, max(-WILD, missed / max(spread, 1e-6))),
        }
        found = []
        for signal, number in numbers.items():
            detector = self._detectors[signal]
            detector.update(float(number > 1) if detector.binary else number)
            if detector.drift and (detector.rose or signal == "calibration"):
                found.append((signal, detector.rose))
        return found

    def state(self) -> State:
        state: State = {
            "rate": [self._labels, self._positives, self._seen],
            "quiet": self._quiet,
            "waiting": self._waiting,
        }
        for signal, detector in self._detectors.items():
            state |= nest(signal, detector.state())
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        self._labels, self._positives, self._seen = state["rate"]
        self._quiet, self._waiting = state["quiet"], [list(row) for row in state["waiting"]]
        for signal, detector in self._detectors.items():
            detector.restore(unnest(signal, state))


class DriftWatch:
    """All tasks. With `drift.on` = false it does nothing and keeps nothing."""

    def __init__(self, config: settings.Drift, tasks: tuple[str, ...]) -> None:
        tests = len(SIGNALS) * len(tasks)
        self._tasks = {name: TaskWatch(config, tests) for name in tasks} if config.on else {}
        self._alarms: list[DriftAlarm] = []

    def observe(self, task: str, logit_N: Floats, label_N: Floats) -> None:
        """Logits on the scale of the labels (sampling offset included)."""
        if task in self._tasks and len(label_N):
            found = self._tasks[task].observe(logit_N, label_N)
            self._alarms += [DriftAlarm(task, signal, rose) for signal, rose in found]

    def take(self) -> tuple[DriftAlarm, ...]:
        """Alarms since the last call."""
        taken, self._alarms = tuple(self._alarms), []
        return taken

    def drifted(self) -> tuple[str, ...]:
        """Tasks that had an alarm within their newest `drift.recent` labels."""
        return tuple(name for name, watch in self._tasks.items() if watch.drifted)

    def state(self) -> State:
        """Empty when off. Alarms are taken at every cut, so none waits between two."""
        state: State = {}
        for name, watch in self._tasks.items():
            state |= nest(name, watch.state())
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """A state without a task (kept while it was off) leaves that task's detectors new."""
        for name, watch in self._tasks.items():
            own = unnest(name, state)
            if own:
                watch.restore(own)
        self._alarms = []


def _detector(signal: str, name: str, tests: int) -> Detector:
    """Raises ConfigError for a name that is none, and for a detector of errors where there are none."""
    valid = sorted(set(DETECTORS) - (set() if signal == "entropy" else _BINARY))
    if name not in valid:
        raise ConfigError(f"drift.{signal} = {name!r} is not known; use one of: {', '.join(valid)}")
    return DETECTORS[name](tests, **OPTIONS.get(name, {}))
