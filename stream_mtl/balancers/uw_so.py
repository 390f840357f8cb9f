"""UW-SO, uncertainty weights in closed form: softmax over tasks of (1 / L_k) / temperature (Kirchdorfer et al. 2024,
arXiv 2408.07985).

The weight that `uw` tends to, at once and with a softmax that keeps a nearly solved task from taking all. The paper
tunes the temperature for every data set; of normalised losses 1 is a middling one. L is the mean over
`window` steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.balancing import LEAST, shares, softmax
from stream_mtl.state import State
from stream_mtl.task_means import TaskMeans

_TEMPERATURE = 1.0


class SoftOptimalUncertainty:
    def __init__(self, setup: Setup) -> None:
        self._weight_T = setup.weight_T
        self._temperature = setup.settings.temperature or _TEMPERATURE
        self._means = TaskMeans(len(setup.weight_T), setup.settings.window)

    def weights(self, seen: Seen) -> Tensor:
        score_T = (
            1 / self._means.after(seen.loss_T, seen.active_T).clamp(min=LEAST) / self._temperature
        )
        return shares(softmax(score_T, seen.active_T), self._weight_T, seen.active_T)

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None:
        self._means.take(seen.loss_T, seen.active_T)

    def state(self) -> State:
        return self._means.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._means.restore(state)
