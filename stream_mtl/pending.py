"""Labelled rows that wait for their optimiser step: a cut bounds commits, not learning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch

from stream_mtl import batch as batches
from stream_mtl.batch import Batch, Spec
from stream_mtl.state import State


class Pending:
    """A queue of rows; `full()` takes out steps of at most `batch_rows` rows, lists kept whole."""

    def __init__(self, spec: Spec, batch_rows: int) -> None:
        self._batch_rows = batch_rows
        self._empty = batches.empty(spec)
        self._parts: list[Batch] = []
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def add(self, batch: Batch) -> None:
        if len(batch):
            self._parts.append(batch)
            self._rows += len(batch)

    def full(self) -> Iterator[Batch]:
        """Batches for as many steps as there are rows; the rest waits for later cuts."""
        if self._rows < self._batch_rows:
            return
        rows = batches.concat(self._parts)
        start = 0
        while len(rows) - start >= self._batch_rows:
            stop = _list_boundary(rows.list_key_B, start, start + self._batch_rows)
            yield rows.rows(start, stop)
            start = stop
        # cloned: a view would keep the whole concatenation alive
        self._parts = [rows.rows(start, len(rows)).clone()] if start < len(rows) else []
        self._rows = len(rows) - start

    def erase(self, user_key: int) -> int:
        """Drop the rows of a user; returns how many."""
        if not self._rows:
            return 0
        rows = batches.concat(self._parts)
        kept = rows.select(rows.user_key_B != user_key)
        erased = self._rows - len(kept)
        self._parts, self._rows = [kept], len(kept)
        return erased

    def state(self) -> State:
        rows = batches.concat(self._parts) if self._parts else self._empty
        return {f.name: getattr(rows, f.name) for f in fields(rows)}

    def restore(self, state: Mapping[str, Any]) -> None:
        rows = Batch(*(state[f.name] for f in fields(Batch)))
        self._parts, self._rows = ([rows] if len(rows) else []), len(rows)


def _list_boundary(list_key_B: torch.Tensor, start: int, stop: int) -> int:
    """The last end of a list in (start, stop]; `stop` itself when one list is longer than a step."""
    if stop >= len(list_key_B):
        return len(list_key_B)
    ends = (list_key_B[start + 1 : stop + 1] != list_key_B[start:stop]).nonzero()
    return start + 1 + int(ends[-1]) if len(ends) else stop
