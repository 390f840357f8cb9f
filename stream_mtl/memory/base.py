"""What a memory policy promises. One memory holds rows of one task.

Legend: B rows, T tasks, C logits of all heads, S stored logit columns, R sampled rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Generator, Tensor

from stream_mtl.batch import Batch, Spec
from stream_mtl.state import State


@dataclass(frozen=True, slots=True)
class Held:
    """Whose rows a memory holds."""

    spec: Spec
    task: str
    columns: tuple[int, ...]  # logits to store, all that the task's loss reads
    whole_lists: bool
    seed: int
    device: torch.device

    @property
    def own(self) -> int:
        """The task's column of labels and masks."""
        return self.spec.tasks.index(self.task)


@dataclass(frozen=True, slots=True)
class Sample:
    """Remembered rows: only the own task's label is unmasked."""

    batch: Batch
    logit_RS: Tensor  # as they were when the row was stored, clamped to +-10
    version_R: Tensor  # of the model that gave them


class Memory(Protocol):
    """Guarantees: capacity holds; adding is idempotent by row key; what is sampled depends only on
    contents and generator; a row whose label of the own task is unknown is never stored.
    """

    def __len__(self) -> int:
        """Rows held."""
        ...

    def add(self, batch: Batch, logit_BC: Tensor, version: int) -> int:
        """Offers rows; returns how many were stored or overwritten."""
        ...

    def sample(self, rows: int, generator: Generator) -> Sample | None:
        """About `rows` rows (exactly, where lists are not kept whole); None from an empty memory."""
        ...

    def repair(self, batch: Batch) -> int:
        """Overwrites labels of rows that are held, where the batch knows the own task's label."""
        ...

    def erase(self, user_key: int) -> int:
        """Removes and zeroes every row of a user; returns how many were held."""
        ...

    def merge(self, other: Self) -> None:
        """Becomes what one memory over both streams would be."""
        ...

    def resized(self, rows: int) -> Self:
        """A memory of another capacity with what fits of these rows."""
        ...

    def state(self) -> State: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...
