"""Fake negative calibration (Ktena et al., RecSys 2019, section 4.4): learn the biased rate, correct it at serving."""

from __future__ import annotations

import torch
from torch import Tensor

from stream_mtl.provisional import LATE_YES, SEEN_NO, SEEN_YES

_MOST = 0.5  # the biased rate p / (1 + p) cannot be more


class Fnc:
    """Every row counts as a negative, and a positive once more as one: the rate b = p / (1 + p), served as b / (1 - b).

    A row that is positive when it is first told of is both at once, so that this holds for any wait. In a funnel the
    rate of the whole way is corrected; that of the step given the one before it stays the biased one.
    """

    heads = 0

    def loss(
        self, told_B: Tensor, yes_B: Tensor, no_B: Tensor, rate_B: Tensor, helper_BH: Tensor
    ) -> Tensor:
        seen_B = (told_B == SEEN_NO) | (told_B == SEEN_YES)
        came_B = (told_B == SEEN_YES) | (told_B == LATE_YES)
        return torch.where(seen_B, no_B, 0.0) + torch.where(came_B, yes_B, 0.0)

    def serve(self, rate_B: Tensor) -> Tensor:
        rate_B = rate_B.clamp(max=_MOST)
        return rate_B / (1 - rate_B)
