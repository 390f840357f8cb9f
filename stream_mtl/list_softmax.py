"""Softmax cross-entropy inside lists of rows. Legend: B rows, N lists."""

from __future__ import annotations

import torch
from torch import Tensor

from stream_mtl.batch import list_index


def list_log_softmax(logit_B: Tensor, mask_B: Tensor, list_key_B: Tensor) -> Tensor:
    """Log-probability of each row among the known rows of its list; of unknown ones without meaning, but finite."""
    index_B, lists = list_index(list_key_B)
    score_B = logit_B.masked_fill(~mask_B, float("-inf"))
    top_N = (
        score_B.detach()
        .new_full((lists,), -1e4)
        .scatter_reduce(0, index_B, score_B.detach(), reduce="amax")
    )
    shifted_B = logit_B - top_N[index_B]
    # unknown rows may lie above the top and must not overflow. Not by a clamp: at its edge, where every list's top
    # row stands, a clamp has no gradient, and the row that most needs pushing down would not be
    weight_B = shifted_B.masked_fill(~mask_B, 0.0).exp() * mask_B
    sum_N = weight_B.new_zeros(lists).index_add(0, index_B, weight_B)
    return shifted_B - sum_N.clamp(min=1e-30).log()[index_B]


def list_softmax_loss(
    logit_B: Tensor, label_B: Tensor, mask_B: Tensor, list_key_B: Tensor
) -> Tensor:
    """-(y / number of positives in the list) * log softmax, a row (ListNet's top-one loss; Cao et al. 2007).

    Only rows with a known label take part. A list without a positive gives 0 on all its rows. Summed
    over a list it is one cross-entropy, so its mean over rows is on the scale of a BCE of the same rate. A label
    above 1, an inverse propensity, makes its row count so many times (Joachims et al., WSDM 2017).
    """
    index_B, lists = list_index(list_key_B)
    positive_B = label_B * mask_B
    count_B = (positive_B > 0).to(positive_B.dtype)
    positives_N = positive_B.new_zeros(lists).index_add(0, index_B, count_B)
    share_B = positive_B / positives_N.clamp(min=1e-6)[index_B]
    log_softmax_B = list_log_softmax(logit_B, mask_B, list_key_B)
    return torch.where(share_B > 0, -share_B * log_softmax_B, 0.0)
