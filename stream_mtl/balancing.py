"""Arithmetic that balancers share: shares of tasks, with inactive ones left out. Legend: T tasks, A active ones."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]

LEAST = 1e-2  # of a loss in a ratio: a hundredth of the base rate's is solved, and must not be divided by
MOST = 1e3  # of a loss that is averaged: one explosion is forgotten within a window


def shares(method_T: Tensor, weight_T: Tensor, active_T: Tensor) -> Tensor:
    """A method's weights times the declared importance, scaled to sum to 1 over the active tasks (float32).

    Where the method leaves every active task without weight, the importance alone decides.
    """
    share_T = method_T.double() * weight_T.double() * active_T
    if float(share_T.sum()) <= 0:
        share_T = weight_T.double() * active_T
    return (share_T / share_T.sum().clamp(min=1e-300)).float()


def softmax(score_T: Tensor, active_T: Tensor) -> Tensor:
    """Over the active tasks, float64; 0 for the others."""
    score_T = score_T.double().masked_fill(~active_T, -torch.inf)
    return torch.where(active_T, score_T.softmax(0), 0.0)


def over_active(
    solve: Callable[[Floats, Floats], Floats],
    gram_TT: Tensor,
    weight_T: Tensor,
    active_T: Tensor,
) -> Tensor:
    """`solve(gram_AA, share_A)` for the active tasks alone (float32, T; 0 for the others).

    `gram_AA` is divided by its trace, so that no threshold in a method depends on the size of a batch;
    `share_A` is the importance, summing to 1. Without gradients, or with some that are not finite (the
    step is refused then), the importance itself is the answer.
    """
    share_T = shares(torch.ones_like(weight_T), weight_T, active_T)
    index_A = active_T.nonzero().squeeze(1)
    gram_AA = gram_TT[index_A][:, index_A].double().numpy()
    trace = float(np.trace(gram_AA))
    if not trace > 0 or not np.isfinite(gram_AA).all():
        return share_T
    mixed_A = solve(gram_AA / trace, shares_of(share_T[index_A]))
    return torch.zeros_like(share_T).index_copy(0, index_A, torch.from_numpy(mixed_A).float())


def shares_of(share_A: Tensor) -> Floats:
    """In float64, summing to 1 to its last digits."""
    share = share_A.double().numpy()
    return np.asarray(share / share.sum())
