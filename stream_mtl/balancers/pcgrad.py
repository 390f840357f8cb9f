"""PCGrad, gradient surgery: what of a task's gradient points against another's is taken out (Yu et al. 2020,
algorithm 1).

For every task i, over the others j in random order: where g_i has a negative product with the original g_j, its
component along g_j is removed. The results are averaged by importance (the paper sums them). The order is
drawn from the seed and the number of the step.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.balancing import Floats, over_active
from stream_mtl.hashing import hash64
from stream_mtl.state import Stateless


class PCGrad(Stateless):
    def __init__(self, setup: Setup) -> None:
        self._weight_T, self._seed = setup.weight_T, setup.seed

    def mix(self, seen: Seen, gram_TT: Tensor) -> Tensor:
        generator = Generator().manual_seed(hash64(f"balancer/{self._seed}/{seen.step}"))
        return over_active(
            lambda gram_AA, share_A: surgery(gram_AA, share_A, generator),
            gram_TT,
            self._weight_T,
            seen.active_T,
        )

    def learn_mix(self, seen: Seen, gram_TT: Tensor) -> None: ...


def surgery(gram_AA: Floats, share_A: Floats, generator: Generator) -> Floats:
    """Weights of the original gradients in the result."""
    size = len(gram_AA)
    mixed_A = np.zeros(size)
    for task in range(size):
        part_A = np.eye(size)[task]
        for other in torch.randperm(size, generator=generator).tolist():
            product = float(gram_AA[other] @ part_A)
            if other != task and product < 0:
                part_A[other] -= product / gram_AA[other, other]
        mixed_A += share_A[task] * part_A
    return mixed_A
