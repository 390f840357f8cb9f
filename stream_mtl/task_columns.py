"""The configured tasks in the order of a batch's label columns, and where their logits lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stream_mtl.batch import Spec
from stream_mtl.config import Config, Task
from stream_mtl.delayed_kind import Delayed
from stream_mtl.delays import DELAYS
from stream_mtl.errors import ConfigError
from stream_mtl.rankings import RANKINGS
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Place, Settings, TaskKind


def task_kinds(spec: Spec, config: Config) -> list[TaskKind]:
    """One kind a task; ConfigError where an `after` names no task, or goes round in a circle."""
    places: dict[str, Place] = {}
    column = 0
    for task, name in enumerate(spec.tasks):
        width = _width(config.tasks[name])
        places[name] = Place(task, column, width)
        column += width
    return [
        _kind(name, _before(name, places, config.tasks), places, config.tasks)
        for name in spec.tasks
    ]


def logits(tasks: Mapping[str, Task]) -> int:
    """Columns of all heads together."""
    return sum(_width(task) for task in tasks.values())


def _width(task: Task) -> int:
    """Logits of a task's head: one, one a class, or more that impute labels or know their delay."""
    if task.delay != "window":
        return 1 + DELAYS[task.delay].heads
    if task.kind == "listwise":
        return RANKINGS[task.ranking].width
    return 2 if task.correction == "dr" else max(1, task.classes)


def _kind(
    name: str, before: Sequence[str], places: Mapping[str, Place], tasks: Mapping[str, Task]
) -> TaskKind:
    task, first = tasks[name], tasks[before[-1] if before else name]
    for one in before:
        if tasks[one].imbalance == "focal":
            raise ConfigError(
                f"tasks.{one}.imbalance = 'focal': {name!r} comes after it and multiplies its probability, which"
                " a focal loss does not learn as such; use 'class_weights' or keep_negatives"
            )
    kind = TASKS[task.kind](places[name], _settings(task, first), [places[one] for one in before])
    return kind if task.delay == "window" else Delayed(kind, DELAYS[task.delay])


def _settings(task: Task, first: Task) -> Settings:
    """`first`: the step of its way that judges what was shown; it alone knows of places."""
    return Settings(
        listwise=task.listwise,
        ranking=task.ranking,
        imbalance=task.imbalance,
        class_weights=task.class_weights,
        focal_gamma=task.focal_gamma,
        keep_negatives=task.keep_negatives,
        place_bias=task.position == "bias",
        propensities=first.propensities,
        classes=task.classes,
        smoothing=task.smoothing,
        correction=task.correction,
        correction_weight=task.correction_weight,
        propensity_floor=task.propensity_floor,
        center=task.center,
        scale=task.scale,
        log=task.log,
    )


def _before(name: str, places: Mapping[str, Place], tasks: Mapping[str, Task]) -> list[str]:
    """Names of the tasks that come before this one in its funnel, the nearest first."""
    before: list[str] = []
    after = tasks[name].after
    while after is not None:
        if after not in places:
            raise ConfigError(
                f"tasks.{(name, *before)[-1]}.after = {after!r} is not a task; use one of:"
                f" {', '.join(places)}"
            )
        if after == name or after in before:
            raise ConfigError(
                f"tasks.{name}.after goes round in a circle: {' after '.join((name, *before, after))};"
                " a funnel needs a first step"
            )
        before.append(after)
        after = tasks[after].after
    return before
