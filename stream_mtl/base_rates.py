"""Makes losses of rare and common labels comparable: divide by the entropy of the base rate.

A purchase loss of 0.0045 and a click loss of 0.12 may both be as good as guessing the rate; whatever
balances tasks must not see that difference. Legend: B rows, T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stream_mtl.optim import copy_tensors
from stream_mtl.state import State

_DECAY = 0.99  # a step: remembers about a hundred steps
_PRIOR_ROWS = 20.0  # pseudo rows at the starting rate, so that the first steps do not jump
_EDGE = 1e-4  # the rate is kept this far from 0 and 1: entropy then stays above 1e-3


def binary_entropy(rate_T: Tensor) -> Tensor:
    """H(p) in nats, for 0 < p < 1."""
    return -(rate_T * rate_T.log() + (1 - rate_T) * torch.log1p(-rate_T))


class BaseRates:
    """Faded positive rate among known labels of fresh rows, a task."""

    def __init__(self, start_T: Tensor) -> None:
        self._start_T = start_T.double()
        self._sums_2T = torch.zeros(2, len(start_T), dtype=torch.float64, device=start_T.device)

    def updated(self, label_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """The sums after these rows (positives, rows; 2 x T); `commit` keeps them."""
        new_2T = torch.stack(((label_BT * mask_BT).sum(0), mask_BT.sum(0))).double()
        seen_T = (new_2T[1] > 0).double()  # a task without labels does not fade
        return self._sums_2T * (1 - seen_T * (1 - _DECAY)) + new_2T

    def entropy(self, sums_2T: Tensor) -> Tensor:
        """Entropies (float32, T) of the rates that these sums stand for."""
        rate_T = (sums_2T[0] + self._start_T * _PRIOR_ROWS) / (sums_2T[1] + _PRIOR_ROWS)
        return binary_entropy(rate_T.clamp(_EDGE, 1 - _EDGE)).float()

    def commit(self, sums_2T: Tensor) -> None:
        self._sums_2T.copy_(sums_2T)

    def state(self) -> State:
        return {"sums_2T": self._sums_2T}

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "base rates")
