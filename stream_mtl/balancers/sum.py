"""The sum of the losses, each times its declared importance, not scaled to anything.

A step in which a task is absent moves the others exactly as much as one in which it is there; with the
other methods they would share its part. Optimisers that follow the sign more than the size of a gradient
(AdamW, Adagrad) show little of the difference; the clipping of the gradient's norm does.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.state import Stateless


class Sum(Stateless):
    def __init__(self, setup: Setup) -> None:
        self._weight_T = setup.weight_T.float()

    def weights(self, seen: Seen) -> Tensor:
        return self._weight_T * seen.active_T

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None: ...
