"""Labelled rows that wait for their optimiser step: a cut bounds commits, not learning.

A young model takes small steps, since on a small shop full ones would be few and far between. They grow
with what it has seen: a step holds at most one in GROWTH of the rows learned before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import torch

from stream_mtl import batch as batches
from stream_mtl.batch import Batch, Spec
from stream_mtl.state import State

GROWTH = 512


class Pending:
    """A queue of rows; `full()` takes out steps of `first_rows` to `batch_rows` rows, lists kept whole."""

    def __init__(
        self,
        spec: Spec,
        batch_rows: int,
        first_rows: int | None = None,
        thin: Callable[[Batch], Batch] | None = None,
    ) -> None:
        """`thin` drops what is not to be learned from."""
        self._thin = thin
        self._batch_rows = batch_rows
        self._first_rows = batch_rows if first_rows is None else min(first_rows, batch_rows)
        self._taken = 0  # rows given out so far
        self._empty = batches.empty(spec)
        self._parts: list[Batch] = []
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def step_rows(self) -> int:
        """Rows of the next step."""
        return min(self._batch_rows, max(self._first_rows, self._taken // GROWTH))

    @property
    def suffices(self) -> bool:
        """Whether there are rows for a step."""
        return self._rows >= self.step_rows()

    def add(self, batch: Batch) -> None:
        if self._thin is not None:
            batch = self._thin(batch)
        if len(batch):
            self._parts.append(batch)
            self._rows += len(batch)

    def full(self) -> Iterator[Batch]:
        """Batches for as many steps as there are rows; the rest waits for later cuts."""
        if not self.suffices:
            return
        list_key_B = torch.cat([part.list_key_B for part in self._parts])
        start = 0
        while len(list_key_B) - start >= (wanted := self.step_rows()):
            stop = _list_boundary(list_key_B, start, start + wanted)
            self._taken += stop - start
            yield self._between(start, stop)
            start = stop
        # cloned: a view would keep all these rows alive
        left = self._between(start, self._rows).clone() if start < self._rows else None
        self._parts, self._rows = [left] if left else [], self._rows - start

    def _between(self, start: int, stop: int) -> Batch:
        """These rows of the queue, which nearly always lie in one part: nothing is copied then."""
        pieces, before = [], 0
        for part in self._parts:
            if start < before + len(part) and before < stop:
                pieces.append(part.rows(max(start - before, 0), stop - before))
            before += len(part)
        return batches.concat(pieces)

    def erase(self, user_key: int) -> int:
        """Drop the rows of a user; returns how many."""
        if not self._rows:
            return 0
        rows = batches.concat(self._parts)
        kept = rows.select(rows.user_key_B != user_key)
        erased = self._rows - len(kept)
        self._parts, self._rows = [kept], len(kept)
        return erased

    def forget_labels(self, task: int) -> None:
        """The labels of one task are unknown from now on."""
        if self._rows:
            rows = batches.concat(self._parts).clone()
            rows.mask_BT[:, task] = False
            self._parts = [rows]

    def state(self) -> State:
        rows = batches.concat(self._parts) if self._parts else self._empty
        return {"taken": self._taken, **{f.name: getattr(rows, f.name) for f in fields(rows)}}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._taken = int(state["taken"])
        rows = Batch(*(state[f.name] for f in fields(Batch)))
        self._parts, self._rows = ([rows] if len(rows) else []), len(rows)


def _list_boundary(list_key_B: torch.Tensor, start: int, stop: int) -> int:
    """The last end of a list in (start, stop]; `stop` itself when one list is longer than a step."""
    if stop >= len(list_key_B):
        return len(list_key_B)
    ends = (list_key_B[start + 1 : stop + 1] != list_key_B[start:stop]).nonzero()
    return start + 1 + int(ends[-1]) if len(ends) else stop
