"""RECAP (arXiv 2510.21978): softmax over tasks of (c_k + i_k) / temperature, from the last 2 W losses of each.

With the means of the older and of the newer W losses and the standard deviation of all: c = older / newer, i =
deviation / (older + newer). Free of scale. A task with fewer than 2 W losses is taken to stand still
(c = 1, i = 0), so that all weights are equal at the start.

c > 1 means that the loss falls, so `recap` (the paper's formula) gives a task that improves more, the opposite of
DWA; the paper's prose says that slow tasks get more: that is `recap_slow`, c = newer / older. At the paper's temperature of 5
both are gentle: a difference of 1 in c is a factor of 1.22 between weights.
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

_TEMPERATURE = 5.0  # the paper's


class Recap:
    def __init__(self, setup: Setup, slow: bool = False) -> None:
        self._weight_T, self._slow = setup.weight_T, slow
        self._temperature = setup.settings.temperature or _TEMPERATURE
        tasks, self._window = len(setup.weight_T), setup.settings.window
        self._loss_TW = torch.zeros(tasks, 2 * self._window, dtype=torch.float64)  # newest last
        self._steps_T = torch.zeros(tasks, dtype=torch.float64)

    def weights(self, seen: Seen) -> Tensor:
        loss_TW = self._after(seen)
        older_T = loss_TW[:, : self._window].mean(1).clamp(min=LEAST)
        newer_T = loss_TW[:, self._window :].mean(1).clamp(min=LEAST)
        speed_T = newer_T / older_T if self._slow else older_T / newer_T
        score_T = speed_T + loss_TW.std(1) / (older_T + newer_T)
        full_T = self._steps_T + 1 >= 2 * self._window
        score_T = torch.where(full_T, score_T, 1.0)
        return shares(
            softmax(score_T / self._temperature, seen.active_T), self._weight_T, seen.active_T
        )

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None:
        self._loss_TW.copy_(self._after(seen))
        self._steps_T += seen.active_T

    def _after(self, seen: Seen) -> Tensor:
        loss_T = seen.loss_T.double().clamp(0, MOST)
        moved_TW = torch.cat((self._loss_TW[:, 1:], loss_T.unsqueeze(1)), 1)
        return torch.where(seen.active_T.unsqueeze(1), moved_TW, self._loss_TW)

    def state(self) -> State:
        return {"loss_TW": self._loss_TW, "steps_T": self._steps_T}

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "balancer")


def recap_slow(setup: Setup) -> Recap:
    """More for tasks that improve slowly."""
    return Recap(setup, slow=True)
