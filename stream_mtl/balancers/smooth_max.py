"""STCH, a smooth maximum: mu * log sum_k exp(w_k L_k / mu), w = declared importance (Lin et al. 2024,
arXiv 2402.19078, with the ideal point at 0).

Its gradient weighs loss k by w_k * softmax(w L / mu)_k; here scaled to sum to 1, and with L the mean over
`window` steps. Small `mu`: only the worst task learns. Large: the weights are the importance. The paper scales w
to sum to 1; ours are as declared, so that a task that is absent does not change what `mu` means to the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.balancing import shares, softmax
from stream_mtl.state import State
from stream_mtl.task_means import TaskMeans


class SmoothMax:
    def __init__(self, setup: Setup) -> None:
        self._weight_T, self._mu = setup.weight_T, setup.settings.mu
        self._means = TaskMeans(len(setup.weight_T), setup.settings.window)

    def weights(self, seen: Seen) -> Tensor:
        score_T = self._weight_T * self._means.after(seen.loss_T, seen.active_T) / self._mu
        return shares(softmax(score_T, seen.active_T), self._weight_T, seen.active_T)

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None:
        self._means.take(seen.loss_T, seen.active_T)

    def state(self) -> State:
        return self._means.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._means.restore(state)
