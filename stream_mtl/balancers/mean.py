"""Equal weights over the tasks that are present, whatever importance was declared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.state import State


class Mean:
    def __init__(self, setup: Setup) -> None:
        """Nothing of `setup` is used here."""

    def weights(self, seen: Seen) -> Tensor:
        active = seen.active_T.to(torch.float32)
        return active / active.sum().clamp(min=1.0)

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None: ...

    def state(self) -> State:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        del state
