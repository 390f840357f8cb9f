"""Weighted links from a row to its strongest items: co-visits, transitions, clicks after a query."""

from __future__ import annotations

import numpy as np

from stream_mtl.shop.columns import Array, Column, Columns, Ints


class Neighbours(Columns):
    """At most `width` links a row, in no order; -1 and weight 0 where there is none.

    A new link takes a free place, else that of the weakest link, whose weight it must not inherit:
    with forward decay an old weak link has faded below any new one.
    """

    slot: Array  # int32 [rows, width]
    weight: Array  # float32 [rows, width], in units of the landmark of its `Fading`

    def __init__(self, width: int) -> None:
        super().__init__(
            {"slot": Column("int32", (width,), -1), "weight": Column("float32", (width,))}
        )

    def add(self, row_P: Ints, slot_P: Ints, weight_P: Array) -> None:
        """Add weights to links, vectorised: pairs may repeat; earlier pairs come first."""
        if not len(row_P):
            return
        key_P = row_P << 32 | slot_P
        key_K, first_K, inverse_P = np.unique(key_P, return_index=True, return_inverse=True)
        weight_K = np.bincount(inverse_P, weights=weight_P)
        row_K, slot_K = key_K >> 32, key_K & 0xFFFFFFFF
        match_KW = self.slot[row_K] == slot_K[:, None]
        known_K = match_KW.any(1)
        row, place = row_K[known_K], match_KW[known_K].argmax(1)
        self.weight[row, place] += weight_K[known_K].astype(np.float32)
        order = np.flatnonzero(~known_K)
        order = order[np.argsort(first_K[order], kind="stable")]
        self._insert(row_K[order], slot_K[order], weight_K[order])

    def _insert(self, row_N: Ints, slot_N: Ints, weight_N: Array) -> None:
        """New links, one a row in each round, because two of one row would take the same place."""
        while len(row_N):
            _, first = np.unique(row_N, return_index=True)
            row, slot, weight = row_N[first], slot_N[first], weight_N[first]
            place = np.where(self.slot[row] < 0, -1.0, self.weight[row]).argmin(1)
            self.slot[row, place] = slot
            self.weight[row, place] = weight
            if len(first) == len(row_N):
                return
            later = np.ones(len(row_N), bool)
            later[first] = False
            row_N, slot_N, weight_N = row_N[later], slot_N[later], weight_N[later]

    def forget(self, gone: Array, used: int) -> None:
        """Drop links to slots marked in `gone` (bool a slot), in the first `used` rows."""
        slot = self.slot[:used]
        dead = gone[slot] & (slot >= 0)
        slot[dead] = -1
        self.weight[:used][dead] = 0

    def scale(self, factor: float) -> None:
        self.weight *= np.float32(factor)
