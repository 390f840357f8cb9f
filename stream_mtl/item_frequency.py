"""How often an item comes up in a batch, told from the gaps between its batches: for the logQ correction.

Items of a batch serve each other as negatives, so a popular item is one far more often than a rare one. A sampled
softmax is put right by taking log p of each item off its score, p the chance that a batch holds it. Streaming estimate
(Yi et al., RecSys 2019, algorithm 2): of every item the batch A it was last seen in and the mean gap B between its
batches,

    B <- (1 - alpha) B + alpha (t - A),   A <- t,   p = 1 / B

in hashed arrays; of several, the greatest gap counts, since a collision can only shorten one. Deviation: B starts, at
an item's first batch, at what a uniform stream over the shop of that moment would give, so that no start has to be known
beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from stream_mtl.hashing import mix64
from stream_mtl.shop.columns import Array, Ints
from stream_mtl.state import State

ARRAYS = 2  # hash functions


class ItemFrequency:
    """Bounded: `buckets` numbers an array, whatever the size of the catalogue."""

    def __init__(self, alpha: float, buckets: int) -> None:
        self._alpha = alpha
        self._last_AH = np.full((ARRAYS, buckets), -1, np.int64)
        self._gap_AH = np.zeros((ARRAYS, buckets))
        self.batches = 0

    def observe(self, key_N: Ints, usual_gap: float) -> None:
        """One batch that holds these items (hashes; repeats count once); `usual_gap`: of a uniform stream, in batches."""
        now = self.batches
        for array in range(ARRAYS):
            place = np.unique(self._places(key_N, array))
            last, gap = self._last_AH[array, place], self._gap_AH[array, place]
            gap = np.where(last < 0, max(usual_gap, 1.0), gap)
            moved = gap + self._alpha * (now - last - gap)
            self._gap_AH[array, place] = np.where(last < 0, gap, moved)
            self._last_AH[array, place] = now
        self.batches += 1

    def probability(self, key_N: Ints) -> Array:
        """Chance that a batch holds each item, in (0, 1] (float64 [N]); 1 for one that was never seen."""
        gap_AN = np.stack([self._gap_AH[a, self._places(key_N, a)] for a in range(ARRAYS)])
        return np.asarray(1.0 / np.maximum(gap_AN.max(0), 1.0))

    def _places(self, key_N: Ints, array: int) -> Ints:
        return mix64(key_N, array + 1) % self._gap_AH.shape[1]

    def state(self) -> State:
        return {
            "last_AH": torch.from_numpy(self._last_AH),
            "gap_AH": torch.from_numpy(self._gap_AH),
            "batches": self.batches,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._last_AH[:] = state["last_AH"].numpy()
        self._gap_AH[:] = state["gap_AH"].numpy()
        self.batches = int(state["batches"])
