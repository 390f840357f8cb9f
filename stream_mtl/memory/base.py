"""What a memory policy promises. One memory holds rows of one task.

Legend: B rows, T tasks, C logits of all heads, S stored logit columns, N units (a row, or a whole list), R their
rows, K classes of the task's labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

from torch import Generator, Tensor

from stream_mtl.batch import Batch
from stream_mtl.held import Ints, Sample
from stream_mtl.state import State


class Memory(Protocol):
    """Guarantees: capacity holds; adding is idempotent by row key; what is sampled depends only on
    contents and generator; a row whose label of the own task is unknown is never stored; of one user at most
    `Held.user_share` of the room is held.
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

    # For samplers that choose themselves: units stand in an order that follows from the contents alone.

    def units(self) -> int:
        """Units held: rows, or whole lists."""
        ...

    def counts(self) -> Ints:
        """Rows of each unit (N)."""
        ...

    def classes(self) -> Ints:
        """Class of each unit (N); of a list the highest of its rows."""
        ...

    def log_chance(self) -> Tensor | None:
        """As in a Sample, if units are drawn alike."""
        ...

    def column(self, name: str) -> Tensor:
        """One stored column (a field of Batch, or label_B) of all rows of all units."""
        ...

    def take(self, pick_N: Ints, first: int = 0) -> Sample:
        """The units at these places; `first` numbers the draws, so that equal lists in a row stay apart."""
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
