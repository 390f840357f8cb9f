"""ES-DFM (Yang et al., AAAI 2021): importance weights from the chance that a positive is still to come.

d and f are the rates of `delay_helpers`; 1 - f is the paper's p_rn, 1 - p_tn in its code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stream_mtl.delay_helpers import helper_loss
from stream_mtl.provisional import LATE_YES, SEEN_NO, SEEN_YES


class EsDfm:
    """Positives weigh 1 + d, whenever they come; negatives (1 + d)(1 - f). The optimum is the true rate."""

    heads = 2

    def loss(
        self, told_B: Tensor, yes_B: Tensor, no_B: Tensor, rate_B: Tensor, helper_BH: Tensor
    ) -> Tensor:
        late_B, missed_B = helper_BH.detach().sigmoid().unbind(1)
        came_B = (told_B == SEEN_YES) | (told_B == LATE_YES)
        positive_B = torch.where(came_B, (1 + late_B) * yes_B, 0.0)
        negative_B = torch.where(told_B == SEEN_NO, (1 + late_B) * (1 - missed_B) * no_B, 0.0)
        return positive_B + negative_B + helper_loss(told_B, helper_BH)

    def serve(self, rate_B: Tensor) -> Tensor:
        return rate_B
