"""No correction: what is seen counts, and a late conversion counts as one more row."""

from __future__ import annotations

import torch
from torch import Tensor

from stream_mtl.provisional import LATE_YES, SEEN_NO, SEEN_YES


class Vanilla:
    """Plain cross-entropy. With d = P(late positive) it learns p / (1 + d): too low, to compare with."""

    heads = 0

    def loss(
        self, told_B: Tensor, yes_B: Tensor, no_B: Tensor, rate_B: Tensor, helper_BH: Tensor
    ) -> Tensor:
        seen_B = torch.where((told_B == SEEN_YES) | (told_B == LATE_YES), yes_B, 0.0)
        return torch.where(told_B == SEEN_NO, no_B, seen_B)

    def serve(self, rate_B: Tensor) -> Tensor:
        return rate_B
