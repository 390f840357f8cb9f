"""UPGrad: every gradient is projected to where it harms no task, and the projections are averaged (Quinton & Rey
2024, arXiv 2406.16232).

In inner products: for every task k the v >= share_k e_k with the smallest v'Gv (proposition 1); the weights are the sum
of these v. Without a conflict they are the importance. As in torchjd, a ten-thousandth of the trace is added to
the diagonal, so that gradients that depend on each other have one answer.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.balancing import Floats, over_active
from stream_mtl.small_qp import minimise
from stream_mtl.state import Stateless

_REGULAR = 1e-4


class UPGrad(Stateless):
    def __init__(self, setup: Setup) -> None:
        self._weight_T = setup.weight_T

    def mix(self, seen: Seen, gram_TT: Tensor) -> Tensor:
        return over_active(unconflicting, gram_TT, self._weight_T, seen.active_T)

    def learn_mix(self, seen: Seen, gram_TT: Tensor) -> None: ...


def unconflicting(gram_AA: Floats, share_A: Floats) -> Floats:
    """Weights of the gradients in the mean of their projections."""
    regular_AA = gram_AA + _REGULAR * np.eye(len(gram_AA))
    mixed_A = share_A.copy()
    for task, share in enumerate(share_A):
        if (gram_AA[task] < 0).any():  # else it harms nobody and is its own projection
            mixed_A += share * minimise(regular_AA, regular_AA[task])
    return mixed_A
