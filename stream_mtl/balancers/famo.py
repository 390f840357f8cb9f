"""FAMO: all losses fall at the same relative speed (Liu et al. 2023, algorithm 1).

The loss is c sum_k z_k log(L_k), z = softmax(w), c such that the weights of the losses, z_k / L_k, sum to 1.
After the step the losses of the same rows are looked at once more (a forward, and no gradients): delta_k = log
before - log after, and w takes a step of Adam along J^T delta, J = Jacobian of the softmax: tasks that fell fast get less.
`decay` pulls w to 0. In the weights L is the mean over `window` steps (1 = published); delta is of single steps,
since its noise is not that of the rows. The lower bound of every loss is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.balancing import LEAST, MOST, shares, softmax
from stream_mtl.optim import copy_tensors
from stream_mtl.state import State, nest, unnest
from stream_mtl.task_means import TaskAdam, TaskMeans


class Famo:
    def __init__(self, setup: Setup) -> None:
        self._weight_T, tasks = setup.weight_T, len(setup.weight_T)
        self._means = TaskMeans(tasks, setup.settings.window)
        self._adam = TaskAdam(tasks, setup.settings.lr, setup.settings.decay)
        self._w_T = torch.zeros(tasks, dtype=torch.float64)

    def weights(self, seen: Seen) -> Tensor:
        mean_T = self._means.after(seen.loss_T, seen.active_T).clamp(min=LEAST)
        z_T = softmax(self._w_T, seen.active_T)
        return shares(z_T / mean_T, self._weight_T, seen.active_T)

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None:
        self._means.take(seen.loss_T, seen.active_T)
        before_T, after_T = (
            loss_T.double().cpu().clamp(LEAST, MOST).log() for loss_T in (seen.loss_T, again())
        )
        delta_T = torch.nan_to_num(before_T - after_T)  # not finite after the step: nothing learned
        z_T = softmax(self._w_T, seen.active_T)
        self._adam.step(self._w_T, z_T * (delta_T - (z_T * delta_T).sum()), seen.active_T)

    def state(self) -> State:
        parts = nest("means", self._means.state()) | nest("adam", self._adam.state())
        return {"w_T": self._w_T, **parts}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._means.restore(unnest("means", state))
        self._adam.restore(unnest("adam", state))
        copy_tensors({"w_T": self._w_T}, {"w_T": state["w_T"]}, "balancer")
