"""Configured weights, scaled to sum to 1 over the tasks that are present."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.state import Stateless


class Weighted(Stateless):
    """A command may change the weights while the worker runs (`task_set`)."""

    def __init__(self, setup: Setup) -> None:
        self.weight_T = setup.weight_T.to(torch.float32).clone()

    def weights(self, seen: Seen) -> Tensor:
        weight_T = self.weight_T * seen.active_T
        return weight_T / weight_T.sum().clamp(min=1e-12)

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None: ...
