"""Focal loss (Lin et al., ICCV 2017, equation 5): rows that are right already count less.

Its optimum is not the true rate: rare classes come out too likely. What a probability v of the loss stands for is known in
closed form (Charoenphakdee et al., CVPR 2021, theorem 11; with weights, theirs divided out), for infinitely many rows of the same kind:

    p_k ~ h(v_k) / w_k,    h(v) = v / ((1 - v)^g - g (1 - v)^(g - 1) v log v)

Served is p. It stretches the log-odds about g + 1 times, and their errors with them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_LEAST = 1e-20  # of 1 - v: its logarithm stays finite where v rounds to 1
_TOP = -1e-6  # log-probabilities stay below this
_BISECTIONS = 60  # as many as a double has bits worth finding


class Focal:
    """w_k (1 - v_k)^gamma * -log v_k, v the softmax; gamma 2 is the paper's, weights (0.75, 0.25) too."""

    shifts = False  # only with gamma 0 is a shift of v's log-odds one of p's

    def __init__(self, weight_K: Sequence[float], gamma: float) -> None:
        self._weight_K, self._gamma = tuple(weight_K) or (1.0,), gamma

    def costs(self, logit_BK: Tensor) -> Tensor:
        log_v_BK = logit_BK.log_softmax(1)
        missing_BK = (-torch.expm1(log_v_BK)).clamp(min=_LEAST)
        return -logit_BK.new_tensor(self._weight_K) * missing_BK**self._gamma * log_v_BK

    def log_probability(self, logit_BK: Tensor) -> Tensor:
        log_v_BK = logit_BK.log_softmax(1)
        missing_BK = (-torch.expm1(log_v_BK)).clamp(min=_LEAST)
        curve_BK = missing_BK - self._gamma * log_v_BK.exp() * log_v_BK
        log_h_BK = log_v_BK - (self._gamma - 1) * missing_BK.log() - curve_BK.log()
        true_BK: Tensor = log_h_BK - logit_BK.new_tensor(self._weight_K).log()
        return true_BK.log_softmax(1).clamp(max=_TOP)

    def first_rate(self, rate: float) -> float:
        """By bisection of the log-odds: `log_probability` grows with them."""
        low, high = -30.0, 30.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            logit_12 = torch.tensor([[0.0, middle]], dtype=torch.float64)
            below = math.exp(self.log_probability(logit_12)[0, 1].item()) < rate
            low, high = (middle, high) if below else (low, middle)
        return 1 / (1 + math.exp(-low))
