"""Equal weights over the tasks that are present, whatever importance was declared."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.state import Stateless


class Mean(Stateless):
    def __init__(self, setup: Setup) -> None:
        """Nothing of `setup` is used here."""

    def weights(self, seen: Seen) -> Tensor:
        active = seen.active_T.to(torch.float32)
        return active / active.sum().clamp(min=1.0)

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None: ...
