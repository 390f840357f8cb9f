"""The newest rows that a label came for, as they were served: what windowed figures are of.

A row is a tuple of columns with the same first axis; which they are, the owner says. Adding costs what is added, and
now and then each row is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stream_mtl.state import State


class NewestRows:
    def __init__(self, rows: int, names: Sequence[str]) -> None:
        self._rows, self._names = rows, tuple(names)
        self._parts: list[tuple[Tensor, ...]] = []
        self._held = 0

    def add(self, columns: tuple[Tensor, ...]) -> None:
        if not self._rows:
            return
        self._parts.append(columns)
        self._held += len(columns[0])
        if self._held >= 2 * self._rows:
            self._cut()

    def columns(self) -> tuple[Tensor, ...] | None:
        """The newest `rows` rows, in the order in which they came; None before the first."""
        if not self._held:
            return None
        self._cut()
        return self._parts[0]

    def replace(self, columns: tuple[Tensor, ...]) -> None:
        """Others in the place of those that `columns` gave."""
        self._parts, self._held = [columns], len(columns[0])

    def _cut(self) -> None:
        whole = (
            torch.cat(column)[-self._rows :].clone() for column in zip(*self._parts, strict=True)
        )
        self.replace(tuple(whole))

    def state(self) -> State:
        columns = self.columns()
        return {} if columns is None else dict(zip(self._names, columns, strict=True))

    def restore(self, state: Mapping[str, Any]) -> None:
        self._parts, self._held = [], 0
        if state:
            self.add(tuple(state[name] for name in self._names))
