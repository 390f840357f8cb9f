"""LambdaRank (Burges 2010, section 4) in the form of a loss (Wang et al., CIKM 2018, "LambdaLoss").

Over pairs of a positive i and a row j of less label:

    |G_i - G_j| * |1/D_i - 1/D_j| * log2(1 + exp(s_j - s_i))

G the gain over the list's best DCG, D = log2(1 + rank by score), both without gradient: their product is what NDCG loses
when i and j change places. Labels are yes or no, so that the usual gain 2^y - 1 is y; an inverse propensity multiplies
its row's gain and leaves the best DCG as it is, else it would cancel.
Legend: B rows, N lists, L places of the longest list.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_mtl.batch import list_index


class LambdaRank:
    """O(L^2) a list; a pair's loss stands on the row of its positive. Ties rank in the order of the rows."""

    width = 1
    pointwise = 0.2  # pairs say nothing of a list's level

    def loss(self, logit_BW: Tensor, label_B: Tensor, mask_B: Tensor, list_key_B: Tensor) -> Tensor:
        logit_B = logit_BW[:, 0]
        index_B, lists = list_index(list_key_B)
        if not lists:
            return torch.zeros_like(logit_B)
        size_N = torch.bincount(index_B, minlength=lists)
        place_B = torch.arange(len(index_B), device=index_B.device)
        place_B = place_B - (size_N.cumsum(0) - size_N)[index_B]
        shape = (lists, int(size_N.max()))
        score_NL = logit_B.new_zeros(shape).index_put((index_B, place_B), logit_B)
        label_NL = label_B.new_zeros(shape).index_put((index_B, place_B), label_B * mask_B)
        known_NL = torch.zeros(shape, dtype=torch.bool, device=mask_B.device)
        known_NL[index_B, place_B] = mask_B
        swap_NLL = _swaps(score_NL.detach(), label_NL, known_NL)
        behind_NLL = score_NL.unsqueeze(1) - score_NL.unsqueeze(2)  # s_j - s_i
        pair_NLL = torch.where(swap_NLL > 0, F.softplus(behind_NLL) / math.log(2), 0.0)
        return (swap_NLL * pair_NLL).sum(2)[index_B, place_B]


def _swaps(score_NL: Tensor, label_NL: Tensor, known_NL: Tensor) -> Tensor:
    """What NDCG loses by swapping i and j (N x L x L), where i has the larger label; 0 elsewhere."""
    known_score_NL = score_NL.masked_fill(~known_NL, -torch.inf)
    order_NL = known_score_NL.argsort(dim=1, descending=True, stable=True)
    rank_NL = order_NL.argsort(1) + 1
    discount_NL = 1 / (rank_NL + 1).to(score_NL.dtype).log2()
    positives_NL = (label_NL > 0).to(score_NL.dtype).sort(1, descending=True).values
    place_L = torch.arange(score_NL.shape[1], device=score_NL.device).to(score_NL.dtype)
    best_N = (positives_NL / (place_L + 2).log2()).sum(1).clamp(min=1e-6)
    gain_NL = label_NL.to(score_NL.dtype) / best_N.unsqueeze(1)
    gap_NLL = (gain_NL.unsqueeze(2) - gain_NL.unsqueeze(1)).clamp(min=0)
    pair_NLL = known_NL.unsqueeze(2) & known_NL.unsqueeze(1)
    lost_NLL: Tensor = (discount_NL.unsqueeze(2) - discount_NL.unsqueeze(1)).abs() * gap_NLL
    return lost_NLL * pair_NLL
