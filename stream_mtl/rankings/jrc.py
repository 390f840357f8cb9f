"""JRC: joint ranking and calibration with two logits a row (Sheng et al., KDD 2023, equations 6 to 9).

    loss_i = a * CE(softmax(f_0, f_1), y_i) - (1 - a) * log [exp f_y(x_i) / sum over the list of exp f_y(x_j)],  y = y_i

P(yes) = sigmoid(f_1 - f_0): the cross-entropy settles the difference, the list term the order of both logits. The head's
columns are f_1 - f_0 and f_0, not f_1 and f_0: the first are then log-odds, as of every other task, and a prior, a
place's bias and a sampling offset go where they belong. The cross-entropy's part a = 1/2 (the paper's) is `pointwise`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stream_mtl.list_softmax import list_log_softmax


class Jrc:
    """A term of each row, of lists without a positive too: its loss is several times that of a softmax. O(rows)."""

    width = 2
    pointwise = 0.5

    def loss(self, logit_BW: Tensor, label_B: Tensor, mask_B: Tensor, list_key_B: Tensor) -> Tensor:
        level_B = logit_BW[:, 1]
        yes_B = list_log_softmax(level_B + logit_BW[:, 0], mask_B, list_key_B)
        no_B = list_log_softmax(level_B, mask_B, list_key_B)
        said_B = torch.where(label_B > 0, yes_B, no_B)
        return torch.where(mask_B, -(1 - self.pointwise) * said_B, 0.0)
