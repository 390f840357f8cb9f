"""How far tasks pull what they share the same way: cosines of their gradients, and which tasks to let share.

Measured where the shared part ends, over the rows of a step. Rows with a label of one task alone count for no
pair, so a cosine is smaller than it would be of the parameters' gradients; its sign is what matters.
Legend: T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stream_mtl.optim import copy_tensors
from stream_mtl.state import State

_KEPT = 0.99  # a measurement: about a hundred are remembered
AGAINST = -0.05  # a mean cosine below this is more than a hundred noisy measurements leave


class TaskAffinity:
    """Fading mean of the cosines, pair by pair: a pair moves when both tasks are active and have gradients."""

    def __init__(self, tasks: int, on: bool) -> None:
        self._on = on
        self._sum_TT, self._weight_TT = torch.zeros(2, tasks, tasks, dtype=torch.float64)

    def take(self, gram_TT: Tensor) -> None:
        """Inner products of one step; rows of inactive tasks are zero."""
        gram_TT = gram_TT.double()
        norm_T = gram_TT.diagonal().clamp(min=0).sqrt()
        known_TT = norm_T.outer(norm_T) > 0
        cosine_TT = gram_TT / norm_T.outer(norm_T).clamp(min=1e-300)
        for kept_TT, new_TT in ((self._sum_TT, cosine_TT), (self._weight_TT, known_TT)):
            kept_TT.copy_(torch.where(known_TT, kept_TT * _KEPT + new_TT, kept_TT))

    def cosines(self) -> Tensor:
        """T x T, float64; NaN for pairs that were never seen together."""
        weight_TT = self._weight_TT.masked_fill(self._weight_TT == 0, torch.nan)
        return torch.div(self._sum_TT, weight_TT)

    def state(self) -> State:
        if not self._on:
            return {}
        return {"sum_TT": self._sum_TT, "weight_TT": self._weight_TT}

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "task affinity")


def groups(cosine_TT: Tensor, least: float = AGAINST) -> tuple[tuple[int, ...], ...]:
    """Tasks to let share, each group with a part of its own: apart only where gradients are clearly against each other.

    Joins the two groups whose tasks' mean cosine is highest, as long as it is above `least`; pairs that were
    never seen together count as 0: nothing speaks against what they do already. The first of equals wins, so that the
    answer is one. On the simulated shop tasks whose cosine is 0 lose most by being parted (`benchmarks.sharing`).
    """
    cosine_TT = torch.nan_to_num(cosine_TT)
    found: list[tuple[int, ...]] = [(task,) for task in range(len(cosine_TT))]
    while True:
        pairs = [
            (float(cosine_TT[list(a)][:, list(b)].mean()), i, j)
            for i, a in enumerate(found)
            for j, b in enumerate(found)
            if i < j
        ]
        best = max(pairs, key=lambda pair: pair[0], default=(least, 0, 0))
        if best[0] <= least:
            return tuple(found)
        _, i, j = best
        joined = tuple(sorted(found[i] + found[j]))
        found = [joined if k == i else one for k, one in enumerate(found) if k != j]
