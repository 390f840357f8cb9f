"""What a fold is judged by: a prequential metric of one task, or its mean over the tasks that have it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stream_mtl.errors import ConfigError

BETTER = {  # which way is better
    "accuracy": "higher",
    "auc": "higher",
    "ece": "lower",
    "gauc": "higher",
    "macro_f1": "higher",
    "mae": "lower",
    "ndcg": "higher",
    "normalized_entropy": "lower",
    "rmse": "lower",
}


Qualities = Mapping[str, Mapping[str, float | int | None]]  # by task


@dataclass(frozen=True, slots=True)
class Objective:
    """The mean of `metric` over `tasks`."""

    metric: str
    tasks: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, tasks: Sequence[str]) -> Objective:
        """`METRIC` or `TASK.METRIC`. Raises ConfigError with what there is."""
        task, _, metric = text.rpartition(".")
        if metric not in BETTER:
            raise ConfigError(
                f"objective {text!r}: {metric!r} is no metric to search by; use METRIC or TASK.METRIC with one of"
                f" {', '.join(BETTER)}"
            )
        if task and task not in tasks:
            raise ConfigError(
                f"objective {text!r}: there is no task {task!r}; tasks are {', '.join(tasks)}"
            )
        return cls(metric, (task,) if task else tuple(tasks))

    @property
    def better(self) -> str:
        return BETTER[self.metric]

    def known_in(self, qualities: Qualities) -> Objective:
        """The same over those tasks that have a value there; of a task without labels there is none."""
        known = (t for t in self.tasks if qualities[t].get(self.metric) is not None)
        return Objective(self.metric, tuple(known))

    def value(self, qualities: Qualities) -> float | None:
        """None where a task has no value, for it would be the mean of others, or one is not finite."""
        values = [qualities[task].get(self.metric) for task in self.tasks]
        finite = [value for value in values if value is not None and math.isfinite(value)]
        return sum(finite) / len(values) if values and len(finite) == len(values) else None

    def gain(self, value: float, over: float) -> float:
        """How much better `value` is: above 0 is better, whichever way the metric goes."""
        return over - value if self.better == "lower" else value - over
