"""Weights drawn anew every step, softmax of standard normals: the control of every experiment with balancers.

RLW (Lin et al. 2022, arXiv 2111.10603). Drawn from the seed and the number of the step, so it has no state.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.balancing import shares, softmax
from stream_mtl.hashing import hash64
from stream_mtl.state import Stateless


class Random(Stateless):
    def __init__(self, setup: Setup) -> None:
        self._weight_T, self._seed = setup.weight_T, setup.seed

    def weights(self, seen: Seen) -> Tensor:
        generator = Generator().manual_seed(hash64(f"balancer/{self._seed}/{seen.step}"))
        drawn_T = torch.randn(len(self._weight_T), generator=generator)
        return shares(softmax(drawn_T, seen.active_T), self._weight_T, seen.active_T)

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None: ...
