"""How often items come, from a stream and in fixed memory (Yi et al., RecSys 2019, algorithm 2).

Arrays of S hashed places remember when an item last came (A) and its usual gap in steps (B, a moving average):

    B <- (1 - alpha) B + alpha (t - A),  A <- t,  p = 1 / B

An item shares its place with others, whose coming makes its gap look shorter: of several arrays with hashes of their own the
longest gap counts. Of an item that stops coming the old gap stays, as in the paper.

Where we deviate: with a fixed alpha what was thought first is forgotten over 1 / alpha comings of each item, years of a rare one. So
the n-th gap counts max(alpha, 1 / (n + 1)), a plain mean at first in which the gap at the start is one of them, and the time
before an item's first coming is no gap.
Legend: H arrays, S places, B items of a step (repeats allowed).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stream_mtl.hashing import mix64
from stream_mtl.state import State

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Frequencies:
    """Probability that a step holds an item; a step is what one call of `observe` brings."""

    def __init__(
        self, places: int = 2**15, arrays: int = 2, alpha: float = 0.02, gap: float = 1_000.0
    ) -> None:
        """`gap`: steps between two comings of an item that was not seen yet. About sqrt(alpha / 2) is the error of a rate."""
        self._alpha, self._step = alpha, 0
        self._last_HS = np.zeros((arrays, places), np.int64)
        self._gap_HS = np.full((arrays, places), gap)
        self._came_HS = np.zeros((arrays, places), np.int64)

    def observe(self, key_B: Ints) -> None:
        """One step with these items; one that is there twice comes once."""
        self._step += 1
        for row, gap_S in enumerate(self._gap_HS):
            place_U = np.unique(self._place(key_B, row))
            came_U, last_U = self._came_HS[row, place_U], self._last_HS[row, place_U]
            alpha_U = np.where(came_U > 0, np.maximum(self._alpha, 1 / (came_U + 1)), 0.0)
            gap_S[place_U] += alpha_U * (self._step - last_U - gap_S[place_U])
            self._last_HS[row, place_U] = self._step
            self._came_HS[row, place_U] += 1

    def probability(self, key_B: Ints) -> Floats:
        """In (0, 1]."""
        gap_HB = [gap_S[self._place(key_B, row)] for row, gap_S in enumerate(self._gap_HS)]
        probability_B: Floats = 1 / np.maximum(np.max(gap_HB, 0), 1.0)
        return probability_B

    def _place(self, key_B: Ints, row: int) -> Ints:
        place_B: Ints = mix64(key_B, row) % self._last_HS.shape[1]
        return place_B

    def state(self) -> State:
        return {
            "last_HS": torch.from_numpy(self._last_HS),
            "gap_HS": torch.from_numpy(self._gap_HS),
            "came_HS": torch.from_numpy(self._came_HS),
            "step": self._step,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._last_HS[:] = state["last_HS"].numpy()
        self._gap_HS[:] = state["gap_HS"].numpy()
        self._came_HS[:] = state["came_HS"].numpy()
        self._step = int(state["step"])
