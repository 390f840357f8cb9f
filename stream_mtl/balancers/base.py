"""What a balancer promises. Legend: T tasks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from stream_mtl.state import State


class Balancer(Protocol):
    def weights(self, loss_T: Tensor, active_T: Tensor) -> Tensor:
        """Weights of the normalised losses: 0 for inactive tasks, summing to 1 over the active ones.

        `loss_T` is detached. An inactive task changes neither weights nor state of the others, and a
        single active task gets weight 1.
        """
        ...

    def state(self) -> State: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...
