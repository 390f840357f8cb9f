"""Dynamic weight average: tasks whose loss falls least get more (Liu et al. 2019, eq. 7).

softmax over tasks of r_k / temperature, r_k = mean loss of the last window over that of the one before. A window is
`window` steps in which the task was active, where the paper has epochs; with fewer than two, r = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.balancing import LEAST, MOST, shares, softmax
from stream_mtl.optim import copy_tensors
from stream_mtl.state import State

_TEMPERATURE = 2.0  # the paper's


class DynamicWeightAverage:
    def __init__(self, setup: Setup) -> None:
        self._weight_T, self._window = setup.weight_T, setup.settings.window
        self._temperature = setup.settings.temperature or _TEMPERATURE
        empty_5T = torch.zeros(5, len(setup.weight_T), dtype=torch.float64)
        self._sum_T, self._steps_T, self._newer_T, self._older_T, self._windows_T = empty_5T

    def weights(self, seen: Seen) -> Tensor:
        ratio_T = self._newer_T / self._older_T.clamp(min=LEAST)
        ratio_T = torch.where(self._windows_T >= 2, ratio_T, 1.0)
        score_T = softmax(ratio_T / self._temperature, seen.active_T)
        return shares(score_T, self._weight_T, seen.active_T)

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None:
        self._sum_T += torch.where(seen.active_T, seen.loss_T.double().clamp(0, MOST), 0.0)
        self._steps_T += seen.active_T
        over_T = self._steps_T >= self._window
        self._older_T.copy_(torch.where(over_T, self._newer_T, self._older_T))
        self._newer_T.copy_(torch.where(over_T, self._sum_T / self._window, self._newer_T))
        self._windows_T += over_T
        self._sum_T[over_T] = 0.0
        self._steps_T[over_T] = 0.0

    def state(self) -> State:
        return {
            "sum_T": self._sum_T,
            "steps_T": self._steps_T,
            "newer_T": self._newer_T,
            "older_T": self._older_T,
            "windows_T": self._windows_T,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "balancer")
