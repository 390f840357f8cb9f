"""Listwise softmax (ListNet's top-one loss; Cao et al., ICML 2007)."""

from __future__ import annotations

from torch import Tensor

from stream_mtl.list_softmax import list_softmax_loss


class Softmax:
    """One cross-entropy a list, over the rows' log-odds; O(rows)."""

    width = 1
    pointwise = 0.2  # the softmax leaves a list's level open; a small cross-entropy settles it

    def loss(self, logit_BW: Tensor, label_B: Tensor, mask_B: Tensor, list_key_B: Tensor) -> Tensor:
        return list_softmax_loss(logit_BW[:, 0], label_B, mask_B, list_key_B)
