"""Fake negative weighted (Ktena et al., RecSys 2019, equation 10): importance weights that need no other model."""

from __future__ import annotations

import torch
from torch import Tensor

from stream_mtl.provisional import LATE_YES, SEEN_NO, SEEN_YES


class Fnw:
    """Every row counts as a negative of weight (1 - p)(1 + p), a positive once more with 1 + p; p as predicted now.

    A row that is positive when it is first told of is both at once, so that the weights are right for any wait.
    """

    heads = 0

    def loss(
        self, told_B: Tensor, yes_B: Tensor, no_B: Tensor, rate_B: Tensor, helper_BH: Tensor
    ) -> Tensor:
        seen_B = (told_B == SEEN_NO) | (told_B == SEEN_YES)
        came_B = (told_B == SEEN_YES) | (told_B == LATE_YES)
        faked_B = (1 - rate_B) * (1 + rate_B) * no_B
        return torch.where(seen_B, faked_B, 0.0) + torch.where(came_B, (1 + rate_B) * yes_B, 0.0)

    def serve(self, rate_B: Tensor) -> Tensor:
        return rate_B
