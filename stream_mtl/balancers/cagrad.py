"""CAGrad: the direction that helps the worst task most, within a ball around the mean gradient (Liu et al. 2021,
algorithm 1).

With g_0 the mean by importance and g_w = sum w_k g_k, w minimises g_w'g_0 + c |g_0| |g_w| over the simplex;
the direction is g_0 + c |g_0| / |g_w| g_w, here divided by 1 + c (the official code's `rescale`), so that a task
alone gets its plain gradient. Where g_w vanishes, no direction helps all: the shared part rests.
"""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.balancing import Floats, over_active
from stream_mtl.small_qp import minimise
from stream_mtl.state import Stateless

_FRONT = 1e-4  # of |g_w|, for gradients whose squares sum to 1 (torchjd's)
_REGULAR = 1e-9  # on the diagonal: equal gradients must have an answer
_ROUNDS, _SETTLED = 100, 1e-9


class CAGrad(Stateless):
    def __init__(self, setup: Setup) -> None:
        self._weight_T, self._c = setup.weight_T, setup.settings.c

    def mix(self, seen: Seen, gram_TT: Tensor) -> Tensor:
        return over_active(
            lambda gram_AA, share_A: conflict_averse(gram_AA, share_A, self._c),
            gram_TT,
            self._weight_T,
            seen.active_T,
        )

    def learn_mix(self, seen: Seen, gram_TT: Tensor) -> None: ...


def conflict_averse(gram_AA: Floats, share_A: Floats, c: float) -> Floats:
    """Weights of the gradients in the direction.

    |g_w| <= (|g_w|^2 / s + s) / 2, with equality at s = |g_w|: so each round minimises a quadratic above the objective, and the
    objective falls until it settles.
    """
    regular_AA = gram_AA + _REGULAR * np.eye(len(gram_AA))
    linear_A = gram_AA @ share_A
    radius = c * math.sqrt(max(float(share_A @ linear_A), 0.0))
    weight_A, length = share_A, _length(gram_AA, share_A)
    for _ in range(_ROUNDS if radius > 0 else 0):
        if length < _FRONT:
            return np.zeros(len(share_A))
        curve = radius / length
        weight_A = minimise(regular_AA, linear_A / curve, total=1.0)
        before, length = length, _length(gram_AA, weight_A)
        if abs(length - before) <= _SETTLED:
            break
    if length < _FRONT:
        return np.zeros(len(share_A))
    return np.asarray((share_A + radius / length * weight_A) / (1 + c))


def _length(gram_AA: Floats, weight_A: Floats) -> float:
    return math.sqrt(max(float(weight_A @ gram_AA @ weight_A), 0.0))
