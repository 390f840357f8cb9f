"""Tasks that come and go while a lineage goes on: decisions in the log, in force after the events of their cut.

A new task is put behind the others, so that all columns stay where they are: its own parts start fresh, and everything
else is carried over as it was. A retired task keeps its columns; its labels are unknown from then on, its memory is emptied
and its scores are published no more. Both are part of the state: a fold that goes on has the same tasks.

Legend: B rows, T tasks, C logit columns of all heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from stream_mtl.config import Config, Task
from stream_mtl.errors import ConfigError
from stream_mtl.state import State

_UNKNOWN = ("served", "champion", "served_BC")  # where nothing was predicted for a task: NaN
_NAMES = ("evaluation/tasks",)  # values that name the tasks
_GUEST = 0.1  # of the heaviest task's weight


@dataclass(slots=True)
class TaskSet:
    """What was added to and taken from the configured tasks."""

    added: dict[str, dict[str, Any]] = field(default_factory=dict)  # name -> settings, in order
    retired: list[str] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)  # said by command, not by config

    def same_model(self, other: TaskSet) -> bool:
        """Whether both give the same configuration: who is retired says nothing about the model."""
        return (self.added, self.weights) == (other.added, other.weights)

    def over(self, config: Config) -> Config:
        """The configuration with the added tasks behind its own."""
        more = {name: Task.model_validate(given) for name, given in self.added.items()}
        tasks = {**config.tasks, **more}
        for name, weight in self.weights.items():
            tasks[name] = tasks[name].model_copy(update={"weight": weight})
        return config.model_copy(update={"tasks": tasks})

    def state(self) -> State:
        return {
            "added": [[name, given] for name, given in self.added.items()],
            "retired": list(self.retired),
            "weights": dict(self.weights),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> TaskSet:
        return cls(
            {name: dict(given) for name, given in state["added"]},
            list(state["retired"]),
            dict(state.get("weights", {})),
        )


def with_task(tasks: TaskSet, config: Config, name: str, given: Mapping[str, Any]) -> TaskSet:
    """The set with one more task. Raises ConfigError saying why it cannot be."""
    if name in config.tasks or name in tasks.added:
        raise ConfigError(f"there is a task {name!r} already; choose another name")
    plain = {
        key: list(v) if isinstance(v, tuple) else v for key, v in given.items()
    }  # as JSON has it
    new = replace(tasks, added={**tasks.added, name: plain})
    try:
        new.over(config)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"add_task {name}: {place}: {first['msg']}") from None
    after = given.get("after")
    if after in tasks.retired:
        raise ConfigError(f"add_task {name}: task {after!r}, which it comes after, is retired")
    return new


def guest_weight(tasks: TaskSet, config: Config) -> float:
    """Of a task that is added without one: a tenth of the heaviest, so that it costs those that are there nothing.

    Weights are shares. With a task added at click's own weight click's AUC was .0014 lower, at a tenth of it as before
    (`benchmarks.added_task`), and a head learns at any weight: the optimisers undo the scale of what is its own.
    """
    whole = tasks.over(config).tasks
    return _GUEST * max(task.weight for name, task in whole.items() if name not in tasks.retired)


def without_task(tasks: TaskSet, config: Config, name: str) -> TaskSet:
    """The set with one task retired. Raises ConfigError saying why it cannot be."""
    _must_live(tasks, config, name)
    whole = tasks.over(config).tasks
    followers = [n for n, t in whole.items() if t.after == name and n not in tasks.retired]
    if followers:
        raise ConfigError(f"task {name!r} is the way to {', '.join(followers)}: retire that first")
    if len(tasks.retired) + 1 == len(whole):
        raise ConfigError(f"task {name!r} is the last one; there must be something to learn")
    return replace(tasks, retired=[*tasks.retired, name])


def with_weight(tasks: TaskSet, config: Config, name: str, weight: float) -> TaskSet:
    """The set with another importance of one task. Raises ConfigError where there is no such task."""
    _must_live(tasks, config, name)
    return replace(tasks, weights={**tasks.weights, name: weight})


def _must_live(tasks: TaskSet, config: Config, name: str) -> None:
    whole = tasks.over(config).tasks
    if name not in whole:
        raise ConfigError(f"there is no task {name!r}; the tasks are: {', '.join(whole)}")
    if name in tasks.retired:
        raise ConfigError(f"task {name!r} is retired already")


def grown(old: Mapping[str, Any], fresh: Mapping[str, Any]) -> State:
    """The state of a fold with fewer tasks, as that of one with more, whose empty state is `fresh`.

    Whatever the old state has stays; a tensor that has grown keeps its old values in its leading corner and has the
    fresh ones beyond it. Rows that only the old state has are told by the ends of their names.
    """
    columns = {
        "_BT": int(fresh["pending/label_BT"].shape[1]),
        "_BC": int(fresh["features/columns/served"].shape[1]),
    }
    state: State = {}
    for name, value in old.items():
        new = fresh.get(name)
        if name in _NAMES:
            state[name] = new
        elif isinstance(value, Tensor):
            shape = tuple(value.shape)
            if new is not None:
                shape = tuple(max(a, b) for a, b in zip(shape, new.shape, strict=True))
            elif name.endswith(tuple(columns)):
                shape = (shape[0], columns[name[-3:]])
            state[name] = _placed(name, value, new, shape)
        else:
            state[name] = value
    return state | {name: value for name, value in fresh.items() if name not in old}


def _placed(name: str, value: Tensor, new: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """A tensor of the larger shape with the fresh values, and the old ones over them."""
    if shape == tuple(value.shape):
        return value
    unknown = name.rpartition("/")[2] in _UNKNOWN
    whole = torch.full(shape, float("nan") if unknown else 0, dtype=value.dtype)
    for part in (new, value):
        if part is not None:
            whole[tuple(slice(0, n) for n in part.shape)] = part.cpu()
    return whole
