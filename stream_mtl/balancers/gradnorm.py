"""GradNorm: weights under which the tasks' gradients have sizes that fit their speed (Chen et al. 2018, algorithm 1).

Wanted: v_k |g_k| = mean of v |g| * r_k^alpha, r_k = (L_k / first L_k) over its mean over the tasks, a task that has
come less far being pulled harder. v takes a step of Adam at `lr` against the absolute differences and is scaled back to its former sum. As the
first loss we take the mean over a task's first `window` steps, since in a stream no step is special; L is the mean over
`window` steps. The paper weighs the heads' losses too; ours keep their own gradients, which AdamW does
not tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.balancing import LEAST, shares
from stream_mtl.optim import copy_tensors
from stream_mtl.state import State, nest, unnest
from stream_mtl.task_means import TaskAdam, TaskMeans

_FLOOR = 1e-3  # of v: a step of Adam must not turn a gradient round


class GradNorm:
    def __init__(self, setup: Setup) -> None:
        self._weight_T, self._window = setup.weight_T, setup.settings.window
        tasks, self._alpha = len(setup.weight_T), setup.settings.alpha
        self._means = TaskMeans(tasks, self._window)
        self._adam = TaskAdam(tasks, setup.settings.lr)
        self._v_T = torch.ones(tasks, dtype=torch.float64)
        self._first_T = torch.zeros(tasks, dtype=torch.float64)
        self._steps_T = torch.zeros(tasks, dtype=torch.float64)

    def mix(self, seen: Seen, gram_TT: Tensor) -> Tensor:
        return shares(self._v_T, self._weight_T, seen.active_T)

    def learn_mix(self, seen: Seen, gram_TT: Tensor) -> None:
        active_T, mean_T = seen.active_T, self._means.take(seen.loss_T, seen.active_T)
        if not active_T.any():
            return
        young_T = active_T & (self._steps_T < self._window)
        self._first_T.copy_(torch.where(young_T, mean_T, self._first_T))
        self._steps_T += active_T
        left_T = mean_T.clamp(min=LEAST) / self._first_T.clamp(min=LEAST)
        speed_T = left_T / left_T[active_T].mean()
        norm_T = gram_TT.diagonal().double().clamp(min=0).sqrt()
        size_T = self._v_T * norm_T
        wanted_T = size_T[active_T].mean() * speed_T**self._alpha
        self._move((size_T - wanted_T).sign() * norm_T, active_T)

    def _move(self, slope_T: Tensor, active_T: Tensor) -> None:
        total = self._v_T[active_T].sum()
        self._adam.step(self._v_T, slope_T, active_T)
        self._v_T.clamp_(min=_FLOOR)
        self._v_T *= torch.where(active_T, total / self._v_T[active_T].sum(), 1.0)

    def state(self) -> State:
        own = {"v_T": self._v_T, "first_T": self._first_T, "steps_T": self._steps_T}
        return own | nest("means", self._means.state()) | nest("adam", self._adam.state())

    def restore(self, state: Mapping[str, Any]) -> None:
        self._means.restore(unnest("means", state))
        self._adam.restore(unnest("adam", state))
        own = {"v_T": self._v_T, "first_T": self._first_T, "steps_T": self._steps_T}
        copy_tensors(own, {name: state[name] for name in own}, "balancer")
