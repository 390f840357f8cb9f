"""What a rehearsal method decides: how many remembered rows of a task, and what they teach; and what else it needs.

Legend: B rows, C logits of all heads, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from torch.nn import functional as F

from stream_mtl import config
from stream_mtl.batch import Batch
from stream_mtl.models.base import Model
from stream_mtl.state import State
from stream_mtl.tasks.base import TaskKind


@dataclass(frozen=True, slots=True)
class Draw:
    """One independent draw from a task's memory and the weights of its two possible terms."""

    rows: int
    label_weight: float  # of the task's own loss on the remembered labels
    logit_weight: float  # of the squared distance to the remembered logits
    reference: bool = (
        False  # teaches nothing: its gradient is one that the step must not go against
    )


class Draws(Protocol):
    def __call__(self, rows: int, settings: config.Rehearsal) -> tuple[Draw, ...]:
        """Draws for one task that add up to `rows`, so that methods cost equal gradient rows."""
        ...


class Aid(Protocol):
    """What a method needs beside its draws; `Nothing` for most."""

    def fresh_shift(self, fresh: Batch) -> Tensor | None:
        """To add to the logits (C) of fresh rows in label losses; None: nothing."""
        ...

    def losses(self, fresh: Batch, logit_BC: Tensor) -> Tensor | None:
        """More loss of each task (T), not yet divided by its spread, from the fresh rows' logits."""
        ...

    def learned(self, fresh: Batch, version: int) -> None:
        """After a step that made `version`."""
        ...

    def consolidate(self, version: int) -> None:
        """A span of the stream ends here."""
        ...

    def state(self) -> State: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


def _same(sparse_BF: Tensor) -> Tensor:
    return sparse_BF


@dataclass(frozen=True, slots=True)
class Context:
    """What an Aid may hold on to."""

    kinds: Sequence[TaskKind]
    tasks: Sequence[tuple[str, config.Task]]  # name and settings, in the order of kinds
    model: Model
    table_RH: Tensor
    settings: config.Rehearsal
    lookup: Callable[[Tensor], Tensor] = (
        _same  # sparse_BF to the rows of the table that the model reads
    )

    def embedded(self, batch: Batch, table_RH: Tensor | None = None) -> Tensor:
        """What the model reads of these rows; of another table, where one is given."""
        table_RH = self.table_RH if table_RH is None else table_RH
        return F.embedding(self.lookup(batch.sparse_BF), table_RH)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A method: what it draws, and what it needs beside."""

    draws: Draws
    aid: Callable[[Context], Aid]
