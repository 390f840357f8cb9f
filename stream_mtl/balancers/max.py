"""Only the task that is worst learns: the largest product of importance and loss (weighted Tchebycheff).

Losses are means over `window` steps, else the noise of single steps decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.state import State
from stream_mtl.task_means import TaskMeans


class Max:
    def __init__(self, setup: Setup) -> None:
        self._weight_T = setup.weight_T
        self._means = TaskMeans(len(setup.weight_T), setup.settings.window)

    def weights(self, seen: Seen) -> Tensor:
        score_T = self._means.after(seen.loss_T, seen.active_T) * self._weight_T
        worst = score_T.masked_fill(~seen.active_T, -torch.inf).argmax()
        return F.one_hot(worst, len(score_T)).float() * seen.active_T

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None:
        self._means.take(seen.loss_T, seen.active_T)

    def state(self) -> State:
        return self._means.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._means.restore(state)
