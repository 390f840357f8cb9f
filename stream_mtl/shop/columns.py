"""Arrays that grow together: one row a slot, doubled when full, saved up to the last slot in use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from stream_mtl.errors import StateError
from stream_mtl.state import State

Ints = npt.NDArray[np.int64]
Array = npt.NDArray[Any]


class Column(NamedTuple):
    """One array: its dtype, the shape of a row, and what an unused row holds."""

    dtype: str
    shape: tuple[int, ...] = ()
    fill: float = 0


class Columns:
    """Named arrays of one length, as attributes; `reset` makes rows as good as new.

    Growth replaces the arrays, so nobody keeps a reference to one across an insertion.
    """

    def __init__(self, layout: Mapping[str, Column], rows: int = 256) -> None:
        self.layout = dict(layout)
        self.capacity = rows
        for name, column in self.layout.items():
            setattr(self, name, np.full((rows, *column.shape), column.fill, column.dtype))

    def reserve(self, rows: int) -> None:
        """Make room for at least `rows` rows, doubling: however they came, as many rows have as much room."""
        if rows <= self.capacity:
            return
        capacity = self.capacity
        while capacity < rows:
            capacity *= 2
        for name, column in self.layout.items():
            grown = np.full((capacity, *column.shape), column.fill, column.dtype)
            grown[: self.capacity] = getattr(self, name)
            setattr(self, name, grown)
        self.capacity = capacity

    def reset(self, slot_R: Array) -> None:
        for name, column in self.layout.items():
            getattr(self, name)[slot_R] = column.fill

    def state(self, rows: int) -> State:
        """The first `rows` rows; tensors alias live memory."""
        return {name: torch.from_numpy(getattr(self, name)[:rows]) for name in self.layout}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, column in self.layout.items():
            saved = state[name].numpy()
            if saved.shape[1:] != column.shape or saved.dtype != np.dtype(column.dtype):
                raise StateError(f"column {name} has another shape or type than configured")
            self.reserve(len(saved))
            array = getattr(self, name)
            array[:] = column.fill
            array[: len(saved)] = saved


def add_at(sums: Array, index: tuple[Array, ...], amount: Array) -> None:
    """`np.add.at` with one index a dimension, by flat positions: several times as fast."""
    assert sums.flags.c_contiguous, "else the flat view would be a copy"
    flat = np.ravel_multi_index(index, sums.shape).reshape(-1)
    np.add.at(sums.reshape(-1), flat, amount.reshape(-1))
