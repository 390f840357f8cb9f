"""Two towers under one softmax over the items of a batch, and its gradient, written out.

    raw -> item = raw / |raw|;   near @ item @ map -> user = ... / |...|
    loss = mean_i -log softmax_j (user_i . item_j / temperature - log p_j)  at j = i

Row i's positive is column i; the same item elsewhere in the batch (an accidental hit) is no negative of it.
Legend: N rows of the batch, K distinct items, D width.
"""

from __future__ import annotations

import numpy as np

from stream_mtl.shop.columns import Array, Ints

_EPS = 1e-6


def gradients(
    raw_KD: Array, map_DD: Array, near_NK: Array, target_N: Ints, log_p_N: Array, temperature: float
) -> tuple[Array, Array]:
    """Of the loss by `raw_KD` and by `map_DD`. `near_NK`: weights of the items in each row's history;
    `target_N`: which of the K items each row is to find."""
    vector_KD, length_K = unit(raw_KD)
    sum_ND = near_NK @ vector_KD
    user_ND, norm_N = unit(sum_ND @ map_DD)
    item_ND = vector_KD[target_N]
    wrong_NN = _wrong(user_ND @ item_ND.T / np.float32(temperature), log_p_N, target_N)
    wrong_NN /= np.float32(len(target_N) * temperature)
    moved_ND = _through_unit(wrong_NN @ item_ND, user_ND, norm_N)
    by_item_KD = near_NK.T @ (moved_ND @ map_DD.T)
    chosen_NK = np.zeros_like(near_NK)
    chosen_NK[np.arange(len(target_N)), target_N] = 1
    by_item_KD += chosen_NK.T @ (wrong_NN.T @ user_ND)
    return _through_unit(by_item_KD, vector_KD, length_K), sum_ND.T @ moved_ND


def unit(sum_ND: Array) -> tuple[Array, Array]:
    """Rows of length one, and how long they were; zero rows stay zero."""
    length_N1 = np.sqrt((sum_ND * sum_ND).sum(1, keepdims=True))
    return sum_ND / np.maximum(length_N1, _EPS), length_N1[:, 0]


def _wrong(logit_NN: Array, log_p_N: Array, target_N: Ints) -> Array:
    """Gradient of the summed loss by the logits: the softmax, less one on the diagonal."""
    logit_NN = (logit_NN - log_p_N).astype(logit_NN.dtype)
    same_NN = target_N[:, None] == target_N
    np.fill_diagonal(same_NN, False)
    logit_NN[same_NN] = -np.inf
    logit_NN -= logit_NN.max(1, keepdims=True)
    np.exp(logit_NN, out=logit_NN)
    logit_NN /= logit_NN.sum(1, keepdims=True)
    logit_NN[np.diag_indices_from(logit_NN)] -= 1
    return logit_NN


def _through_unit(gradient_ND: Array, unit_ND: Array, length_N: Array) -> Array:
    """Gradient before the scaling to unit length."""
    along_N1 = (gradient_ND * unit_ND).sum(1, keepdims=True)
    return np.asarray((gradient_ND - unit_ND * along_N1) / np.maximum(length_N, _EPS)[:, None])
