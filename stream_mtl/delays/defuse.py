"""DEFUSE (Chen et al., WWW 2022): what looks like a negative is in part one and in part a positive.

d and f are the rates of `delay_helpers`. The four kinds of rows get weights of their own: seen positives 1 + d, late ones 1, and a
negative counts as a positive of weight d with chance f and as a negative of weight 1 + d with chance 1 - f. With
p - d seen positives, d late ones and 1 - p + d negatives a row, positives sum to (1 + d) p and negatives to
(1 + d)(1 - p): unbiased where the late ones weigh 1, and not where they weigh 1 + d as the seen ones do. Matured rows
teach the helpers alone; DEFER's taking them in once more taught a window-old world.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stream_mtl.delay_helpers import helper_loss
from stream_mtl.provisional import LATE_YES, SEEN_NO, SEEN_YES


class Defuse:
    """As ES-DFM, with false negatives taught as positives: less variance in what is left of the negatives."""

    heads = 2

    def loss(
        self, told_B: Tensor, yes_B: Tensor, no_B: Tensor, rate_B: Tensor, helper_BH: Tensor
    ) -> Tensor:
        late_B, missed_B = helper_BH.detach().sigmoid().unbind(1)
        split_B = missed_B * late_B * yes_B + (1 - missed_B) * (1 + late_B) * no_B
        loss_B = torch.where(told_B == SEEN_NO, split_B, 0.0)
        loss_B = loss_B + torch.where(told_B == SEEN_YES, (1 + late_B) * yes_B, 0.0)
        loss_B = loss_B + torch.where(told_B == LATE_YES, yes_B, 0.0)
        return loss_B + helper_loss(told_B, helper_BH)

    def serve(self, rate_B: Tensor) -> Tensor:
        return rate_B
