"""Equal weights over the tasks that are present."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stream_mtl.state import State


class Mean:
    def __init__(self, weight_T: Tensor) -> None:
        """`weight_T`, the configured weights, is not used here."""

    def weights(self, loss_T: Tensor, active_T: Tensor) -> Tensor:
        active = active_T.to(torch.float32)
        return active / active.sum().clamp(min=1.0)

    def state(self) -> State:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        del state
