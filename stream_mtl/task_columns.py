"""The configured tasks in the order of the columns of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stream_mtl.batch import Spec
from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Columns, TaskKind


def task_kinds(spec: Spec, config: Config) -> list[TaskKind]:
    kinds = []
    for own, name in enumerate(spec.tasks):
        task = config.tasks[name]
        if task.after is not None and task.after not in spec.tasks:
            raise ConfigError(
                f"tasks.{name}.after = {task.after!r} is not a task; use one of: {', '.join(spec.tasks)}"
            )
        after = None if task.after is None else spec.tasks.index(task.after)
        kinds.append(TASKS[task.kind](Columns(own, after, task.listwise)))
    return kinds


def start_rates(kinds: Sequence[TaskKind]) -> Tensor:
    """What the heads predict before the first step: along a funnel, the product."""
    rates = []
    for kind in kinds:
        rate = 1.0
        for column in kind.columns:
            rate *= kinds[column].base_rate
        rates.append(rate)
    return torch.tensor(rates)
