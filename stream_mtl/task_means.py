"""What balancers keep of each task between steps. Nothing of a task moves in a step that it is not active in.

Legend: T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stream_mtl.balancing import MOST
from stream_mtl.optim import copy_tensors
from stream_mtl.state import State

_BETAS = (0.9, 0.999)  # torch's defaults for Adam, and the published ones
_EPS = 1e-8


class TaskMeans:
    """Mean loss of each task over about its last `window` active steps: plain over the first, then fading.

    A single step's loss is noise, and weights that follow it swing (RECAP, arXiv 2510.21978); `window` 1 is
    the single step.
    """

    def __init__(self, tasks: int, window: int) -> None:
        self._window = window
        self._mean_T = torch.zeros(tasks, dtype=torch.float64)
        self._steps_T = torch.zeros(tasks, dtype=torch.float64)

    def after(self, loss_T: Tensor, active_T: Tensor) -> Tensor:
        """The means with this step in them (float64, T); changes nothing."""
        rate_T = 1 / (self._steps_T + 1).clamp(max=self._window)
        loss_T = loss_T.double().clamp(0, MOST)
        moved_T = self._mean_T + rate_T * (loss_T - self._mean_T)
        return torch.where(active_T, moved_T, self._mean_T)

    def take(self, loss_T: Tensor, active_T: Tensor) -> Tensor:
        """Keeps what `after` gives, and gives it."""
        self._mean_T.copy_(self.after(loss_T, active_T))
        self._steps_T += active_T
        return self._mean_T

    def state(self) -> State:
        return {"mean_T": self._mean_T, "steps_T": self._steps_T}

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "balancer's means")


class TaskAdam:
    """Adam (Kingma & Ba 2015) on one number a task, with a step count for each."""

    def __init__(self, tasks: int, lr: float, decay: float = 0.0) -> None:
        self._lr, self._decay = lr, decay
        self._steps_T, self._first_T, self._second_T = torch.zeros(3, tasks, dtype=torch.float64)

    def step(self, value_T: Tensor, gradient_T: Tensor, active_T: Tensor) -> None:
        """Moves `value_T` (float64) in place, downhill; `decay` is added to the gradient, as in torch's Adam."""
        gradient_T = gradient_T + self._decay * value_T
        for moment_T, new_T, beta in zip(
            (self._first_T, self._second_T),
            (gradient_T, gradient_T.square()),
            _BETAS,
            strict=True,
        ):
            moment_T.copy_(torch.where(active_T, torch.lerp(moment_T, new_T, 1 - beta), moment_T))
        self._steps_T += active_T
        done_T = self._steps_T.clamp(min=1)
        first_T = self._first_T / (1 - _BETAS[0] ** done_T)
        second_T = self._second_T / (1 - _BETAS[1] ** done_T)
        step_T = self._lr * first_T / (second_T.sqrt() + _EPS)
        value_T -= torch.where(active_T, step_T, 0.0)

    def state(self) -> State:
        return {
            "steps_T": self._steps_T,
            "first_T": self._first_T,
            "second_T": self._second_T,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "balancer's optimiser")
