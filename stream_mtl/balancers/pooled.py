"""One mean over all known labels of all tasks: a task weighs as much as it has labels in the step.

A task whose only part in the step is a logit term counts as one row.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.balancing import shares
from stream_mtl.state import Stateless


class Pooled(Stateless):
    def __init__(self, setup: Setup) -> None:
        self._weight_T = setup.weight_T

    def weights(self, seen: Seen) -> Tensor:
        return shares(seen.rows_T.clamp(min=1), self._weight_T, seen.active_T)

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None: ...
