"""Configured weights, scaled to sum to 1 over the tasks that are present."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.errors import StateError
from stream_mtl.state import State


class Weighted:
    """The weights are state: a command may change them while the worker runs."""

    def __init__(self, setup: Setup) -> None:
        self.weight_T = setup.weight_T.to(torch.float32).clone()

    def weights(self, seen: Seen) -> Tensor:
        weight_T = self.weight_T * seen.active_T
        return weight_T / weight_T.sum().clamp(min=1e-12)

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None: ...

    def state(self) -> State:
        return {"weight_T": self.weight_T}

    def restore(self, state: Mapping[str, Any]) -> None:
        weight_T = state.get("weight_T")
        if not isinstance(weight_T, Tensor) or weight_T.shape != self.weight_T.shape:
            raise StateError(
                f"balancer weights: expected shape {tuple(self.weight_T.shape)}, found another;"
                " the tasks changed: start the balancer afresh"
            )
        self.weight_T.copy_(weight_T)
