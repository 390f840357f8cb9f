"""What a loss for rare classes promises. Legend: B rows, K classes (of a yes or no: no, yes)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Imbalance(Protocol):
    """The loss of every class that a row's label may be, and the probabilities that this loss's optimum stands for."""

    @property
    def shifts(self) -> bool:
        """Whether adding log-ratios to the logits in training still undoes a sampling of classes exactly."""
        ...

    def costs(self, logit_BK: Tensor) -> Tensor:
        """B x K, not negative: the loss, were the label class k."""
        ...

    def log_probability(self, logit_BK: Tensor) -> Tensor:
        """B x K: log of the true shares, where `costs` are at their optimum."""
        ...

    def first_rate(self, rate: float) -> float:
        """Sigmoid of the logit that stands for this rate of yes: where a head starts."""
        ...


class NewImbalance(Protocol):
    def __call__(self, weight_K: Sequence[float], gamma: float) -> Imbalance:
        """`weight_K`: of the classes; empty where all are alike."""
        ...
