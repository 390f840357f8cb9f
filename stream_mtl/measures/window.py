"""A measure of the newest rows, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from stream_mtl.measures.base import Judged, Measure, concat


class Windowed:
    """Keeps `rows` rows. Adding costs what is added; the value costs the window."""

    def __init__(self, measure: Measure, rows: int) -> None:
        self._measure, self._rows = measure, rows
        self._parts: list[Judged] = []
        self._held = 0

    def add(self, rows: Judged) -> None:
        self._parts.append(rows)
        self._held += len(rows)
        if self._held >= 2 * self._rows:  # cut now and then: each row is copied about twice
            self._cut()

    def _cut(self) -> None:
        whole = concat(self._parts)
        self._parts = [whole.rows(slice(max(0, len(whole) - self._rows), None))]
        self._held = len(self._parts[0])

    def value(self) -> float | None:
        if not self._held:
            return None
        self._cut()
        return self._measure.over(self._parts[0])

    def state(self) -> dict[str, Any]:
        if not self._held:
            return {}
        self._cut()
        return {f.name: torch.from_numpy(getattr(self._parts[0], f.name)) for f in fields(Judged)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._parts = []
        if state:
            names = [f.name for f in fields(Judged)]
            self._parts = [Judged(*(state[name].numpy().copy() for name in names))]
        self._held = sum(len(part) for part in self._parts)
