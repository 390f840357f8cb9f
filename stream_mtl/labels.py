"""Where a task's labels come from: what the join, or a user's profile, says of a row.

A task reads one source (`tasks.X.label`, by default its own name), as it is or as a yes or no against a
threshold (`tasks.X.above`). Several tasks may read the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stream_mtl.config import Join, Task, TaskJoin
from stream_mtl.errors import ConfigError
from stream_mtl.join_state import within
from stream_mtl.shop.columns import Array

AT_PURCHASE = ("purchase", "cart")  # sources whose labels are known when the purchase window closes
PROFILE = "profile."  # and the name of the attribute


@dataclass(frozen=True, slots=True)
class Source:
    """One kind of label."""

    text: str
    of_drawn: bool  # whether a drawn negative has one, namely 0
    number: bool = False  # not a yes or no
    window: str = (
        ""  # setting of `join` that says how long after an exposure it counts; empty: always
    )


SOURCES: dict[str, Source] = {
    "click": Source("the item was clicked", True, window="click_window_ms"),
    "search": Source(
        "it was clicked in a list that answered a query", True, window="click_window_ms"
    ),
    "purchase": Source("the item was bought", True, window="purchase_window_ms"),
    "cart": Source("the item was put into the cart", True, window="purchase_window_ms"),
    "dwell_ms": Source("how long the item was looked at: viewed items only", False, number=True),
    "completion": Source("share of it that was seen: viewed items only", False, number=True),
    "rating": Source("a review's stars, as of when it is written", False, number=True),
}


@dataclass(frozen=True, slots=True)
class Reading:
    """What one task reads."""

    source: str
    attribute: str = ""  # of the profile; empty when the join says it
    above: float | None = None
    of_drawn: bool = False

    def labels(self, said_B: Array) -> Array:
        """NaN stays NaN; against the threshold, 1 from there on."""
        if self.above is None:
            return said_B
        return np.where(np.isnan(said_B), np.nan, said_B >= self.above).astype(np.float32)


def readings(tasks: Mapping[str, Task]) -> tuple[Reading, ...]:
    """One a task, in their order. ConfigError where a source does not exist or does not suit the kind."""
    return tuple(_reading(name, task) for name, task in tasks.items())


def _reading(name: str, task: Task) -> Reading:
    source = task.label or name
    if task.window_ms is not None and source not in AT_PURCHASE:
        raise ConfigError(
            f"tasks.{name}.window_ms with label {source!r}: windows of their own are for"
            f" {' and '.join(AT_PURCHASE)}; leave it out"
        )
    if source.startswith(PROFILE) and len(source) > len(PROFILE):
        if task.kind != "multiclass":
            raise ConfigError(
                f"tasks.{name}.label = {source!r}: an attribute of the profile is one of several values;"
                f" use kind = 'multiclass' with `classes` or `values`, found {task.kind!r}"
            )
        if task.above is not None:
            raise ConfigError(
                f"tasks.{name}.above with label {source!r}: an attribute of the profile is no number; leave it out"
            )
        return Reading(source, source.removeprefix(PROFILE))
    found = SOURCES.get(source)
    if found is None:
        raise ConfigError(
            f"tasks.{name}.label = {source!r} is not a source of labels; use one of:"
            f" {', '.join(sorted(SOURCES))}, or {PROFILE}ATTRIBUTE (the default is the task's own name)"
        )
    if task.kind == "multiclass" or (
        found.number and task.above is None and task.kind != "regression"
    ):
        raise ConfigError(
            f"tasks.{name}: kind {task.kind!r} cannot learn {source!r} ({found.text}); use kind"
            " 'regression', or `above` to make a yes or no of it"
        )
    told = source if task.window_ms is None else within(source, task.window_ms)
    return Reading(told, above=task.above, of_drawn=found.of_drawn)


def joining(join: Join, tasks: Mapping[str, Task]) -> Join:
    """The join, with provisional labels and further windows where tasks want them. ConfigError where there can be none."""
    early_ms, windows_ms = _early_wait(join, tasks), _windows(join, tasks)
    if early_ms is None and not windows_ms:
        return join
    return TaskJoin(**join.model_dump(), early_ms=early_ms, windows_ms=windows_ms)


def _windows(join: Join, tasks: Mapping[str, Task]) -> tuple[int, ...]:
    for name, task in tasks.items():
        if task.window_ms is None:
            continue
        if task.window_ms >= join.purchase_window_ms:
            raise ConfigError(
                f"tasks.{name}.window_ms = {task.window_ms} is not below join.purchase_window_ms ="
                f" {join.purchase_window_ms}, the longest; raise that one, or leave this out"
            )
        if task.delay != "window":
            raise ConfigError(
                f"tasks.{name}: window_ms with delay = {task.delay!r}: provisional labels are of the whole purchase"
                " window; drop one"
            )
    return tuple(sorted({task.window_ms for task in tasks.values() if task.window_ms is not None}))


def _early_wait(join: Join, tasks: Mapping[str, Task]) -> int | None:
    early = {name: task for name, task in tasks.items() if task.delay != "window"}
    if not early:
        return None
    for name, task in early.items():
        source = task.label or name
        if source not in AT_PURCHASE:
            raise ConfigError(
                f"tasks.{name}: delay = {task.delay!r}, but labels of {source!r} come early anyway; it is for"
                f" {' and '.join(AT_PURCHASE)}"
            )
    waits = {task.early_ms for task in early.values()}
    if len(waits) > 1:
        raise ConfigError(
            f"tasks.{' and tasks.'.join(early)} wait {sorted(waits)} ms for their provisional labels, which go"
            " out together: give them the same early_ms"
        )
    if (wait := waits.pop()) >= join.purchase_window_ms:
        raise ConfigError(
            f"tasks.{next(iter(early))}.early_ms = {wait} does not end before join.purchase_window_ms ="
            f" {join.purchase_window_ms}; wait less, or use delay = 'window'"
        )
    return wait


def attributes(tasks: Mapping[str, Task]) -> dict[str, Sequence[str] | int]:
    """Profile attributes that tasks read, with their values where they are named, else how many there may be."""
    found: dict[str, Sequence[str] | int] = {}
    for name, task in tasks.items():
        attribute = (task.label or name).removeprefix(PROFILE)
        if attribute != (task.label or name):
            found[attribute] = task.values or task.classes
    return found
