"""What a search promises.

Legend: U rows that seek, N items by slot, D width of a vector, K found pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from stream_mtl.shop.columns import Array, Ints
from stream_mtl.state import Stateful


@dataclass(frozen=True, slots=True)
class Setup:
    """What `[retrieval]` and the configuration's top say of searches."""

    index_from: int  # items that may be found, from which an index is worth its keep
    probes: int  # lists of the index that are looked through
    seed: int
    threads: int


@dataclass(frozen=True, slots=True)
class Sought:
    """The `n` nearest of each row, among the items that are offered (and stand in the row's own domain).

    All vectors are of unit length, or zero where there is nothing; only a cosine above `least`, which is not
    negative, is near.
    """

    query_UD: Array  # float32
    vector_ND: Array  # float32
    offered_N: Array  # bool
    n: int
    least: float
    domain_U: Array | None = None
    domain_N: Array | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """Pairs of a row and a near item, sorted; and the cosine of any pair of a row and an offered item."""

    row_K: Ints
    item_K: Ints
    cosine: Callable[[Ints, Ints], Array]


class Search(Stateful, Protocol):
    """What is found is a function of what is sought and of the state: equal after a restart."""

    def find(self, sought: Sought) -> Found: ...

    def moved(self, slot_K: Ints) -> None:
        """The vectors of these slots are no longer what they were."""
        ...


def of_pairs(sought: Sought) -> Callable[[Ints, Ints], Array]:
    """Cosines worked out pair by pair."""

    def cosine(row_N: Ints, item_N: Ints) -> Array:
        found: Array = np.einsum("nd,nd->n", sought.query_UD[row_N], sought.vector_ND[item_N])
        return found

    return cosine
