"""Classes that count more than others, with probabilities as if they did not.

Weighted cross-entropy has its optimum at odds that are off by the ratio of the weights (King & Zeng 2001, "prior
correction", is the same for sampling). Adding log w to the logits in training and not in serving is exact: what is
served are the true shares.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class ClassWeights:
    """-w_k log softmax(logit + log w)_k."""

    shifts = True

    def __init__(self, weight_K: Sequence[float], gamma: float) -> None:
        self._weight_K = tuple(weight_K)

    def costs(self, logit_BK: Tensor) -> Tensor:
        weight_K = logit_BK.new_tensor(self._weight_K)
        return -weight_K * (logit_BK + weight_K.log()).log_softmax(1)

    def log_probability(self, logit_BK: Tensor) -> Tensor:
        return logit_BK.log_softmax(1)

    def first_rate(self, rate: float) -> float:
        return rate
