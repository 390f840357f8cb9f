"""Uncertainty weighting: sum_k (e^-s_k L_k + s_k) / 2 with a trained s_k (Kendall et al. 2018, eq. 10).

s is at rest where e^s = L: the weight tends to 1 / (2 L). Weights are scaled to sum to 1 (AdamW would not see
the scale, clipping would). s learns from the mean over `window` steps, by Adam at `lr`, and stays
within 4 of 0, so that a solved task weighs at most e^8 times one that has exploded. Raw losses of rare tasks are
small for being rare, and would be weighed up for it: leave `normalize` on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.balancing import shares, softmax
from stream_mtl.optim import copy_tensors
from stream_mtl.state import State, nest, unnest
from stream_mtl.task_means import TaskAdam, TaskMeans

_LIMIT = 4.0


class UncertaintyWeights:
    def __init__(self, setup: Setup) -> None:
        self._weight_T, tasks = setup.weight_T, len(setup.weight_T)
        self._means = TaskMeans(tasks, setup.settings.window)
        self._adam = TaskAdam(tasks, setup.settings.lr)
        self._s_T = torch.zeros(tasks, dtype=torch.float64)

    def weights(self, seen: Seen) -> Tensor:
        return shares(softmax(-self._s_T, seen.active_T), self._weight_T, seen.active_T)

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None:
        mean_T = self._means.take(seen.loss_T, seen.active_T)
        self._adam.step(self._s_T, 0.5 - 0.5 * (-self._s_T).exp() * mean_T, seen.active_T)
        self._s_T.clamp_(-_LIMIT, _LIMIT)

    def state(self) -> State:
        parts = nest("means", self._means.state()) | nest("adam", self._adam.state())
        return {"s_T": self._s_T, **parts}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._means.restore(unnest("means", state))
        self._adam.restore(unnest("adam", state))
        copy_tensors({"s_T": self._s_T}, {"s_T": state["s_T"]}, "balancer")
