"""What every task declares of itself, in words that its owner and a reader of its scores can check."""

from __future__ import annotations

from typing import Any

from stream_mtl.batch import Spec
from stream_mtl.config import Config
from stream_mtl.labels import PROFILE, SOURCES, Reading, readings
from stream_mtl.task_columns import task_kinds


def declared(config: Config) -> dict[str, dict[str, Any]]:
    """Of every task: kind, weight, label, the window in which it counts, what it may use, its score, its metrics.

    Raises ConfigError for tasks that cannot be.
    """
    names = tuple(config.tasks)
    kinds = task_kinds(Spec((), (), names, 1, 0), config)
    told = {}
    for name, kind, reading in zip(names, kinds, readings(config.tasks), strict=True):
        task = config.tasks[name]
        source = SOURCES.get(task.label or name)
        window_ms = task.window_ms
        if window_ms is None and source is not None and source.window:
            window_ms = getattr(config.join, source.window)
        told[name] = {
            "kind": task.kind,
            "after": task.after,
            "weight": task.weight,
            "label": _label(task.label or name, reading),
            "window_ms": window_ms,
            "fields": list(task.fields),
            "score": kind.unit,
            "metrics": list(kind.metrics),
        }
    return told


def _label(source: str, reading: Reading) -> str:
    if reading.attribute:
        return f"{PROFILE}{reading.attribute}: what users said of themselves"
    text = f"{source}: {SOURCES[source].text}"
    return text if reading.above is None else f"{text}; at least {reading.above:g}"
