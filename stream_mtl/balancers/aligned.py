"""Aligned-MTL: the gradients are turned into orthogonal ones of equal length, the smallest of their principal components
(Senushkin et al. 2023, algorithm 1).

With G = V L V' the weights are sqrt(smallest eigenvalue) V L^-1/2 V' times the importance. Directions that hold nothing
(eigenvalue zero but for rounding) are left out. Where tasks agree, the step becomes small: what they share
is cut down to what sets them apart.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.balancing import Floats, over_active
from stream_mtl.state import Stateless

_ROUNDING = float(np.finfo(np.float32).eps)  # the products come from float32


class Aligned(Stateless):
    def __init__(self, setup: Setup) -> None:
        self._weight_T = setup.weight_T

    def mix(self, seen: Seen, gram_TT: Tensor) -> Tensor:
        return over_active(align, gram_TT, self._weight_T, seen.active_T)

    def learn_mix(self, seen: Seen, gram_TT: Tensor) -> None: ...


def align(gram_AA: Floats, share_A: Floats) -> Floats:
    """Weights of the gradients; may be negative."""
    size_A, vector_AA = np.linalg.eigh(gram_AA)  # rising
    real_A = size_A > size_A[-1] * len(size_A) * _ROUNDING
    size_A, vector_AA = size_A[real_A], vector_AA[:, real_A]
    part_A = vector_AA.T @ share_A * np.sqrt(size_A[0] / size_A)
    return np.asarray(vector_AA @ part_A)
