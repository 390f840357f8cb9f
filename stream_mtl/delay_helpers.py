"""The two rates that importance weights of late labels need, learned from rows whose window has closed.

d = P(late positive), and f = P(late positive | not positive when first told of). Both are rates of rare rows and
start near 0, so that before any window has closed the weights are near those of plain cross-entropy.
Legend: B rows, H helper logits, d first.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_mtl.provisional import MATURE_LATE, MATURE_NO


def helper_loss(told_B: Tensor, helper_BH: Tensor) -> Tensor:
    """Cross-entropies (B) of d and f on matured rows; f sees only those that were not positive at first."""
    late_B = (told_B == MATURE_LATE).float()
    error_BH = F.binary_cross_entropy_with_logits(
        helper_BH, late_B.unsqueeze(1).expand_as(helper_BH), reduction="none"
    )
    missed_B = (told_B == MATURE_NO) | (told_B == MATURE_LATE)
    return torch.where(told_B >= MATURE_NO, error_BH[:, 0], 0.0) + torch.where(
        missed_B, error_BH[:, 1], 0.0
    )
