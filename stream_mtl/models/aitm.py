"""Adaptive information transfer along a funnel (AITM; Xi et al., KDD 2021, equations 4 to 7).

Each task has a tower on the common inputs. A task that comes after another mixes, by attention, what its tower says (q) with
what the step before passes on (p):

    z_t = sum over u in {p_{t-1}, q_t} of w_u h3(u),  w = softmax of <h1(u), h2(u)> / sqrt(H)

The order is the tasks' own: that of `tasks.<name>.after`; tasks outside a funnel are towers. The paper's calibrator
(a later step is never likelier than an earlier one) is not needed: the funnel kind multiplies the
probabilities of the way, so it holds by construction. Towers are normalised, with SiLU.
Legend: B rows, X inputs, H width, U the two of a mixture, T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from stream_mtl.batch import Batch
from stream_mtl.experts import Experts
from stream_mtl.layers import Parts
from stream_mtl.linear import linear
from stream_mtl.models.base import Mixture


class Transfer(nn.Module):
    """What a step takes from the one before it, and the attention that mixes it with the own tower."""

    def __init__(self, hidden: int, generator: Generator) -> None:
        super().__init__()
        self.passed = linear(hidden, hidden, generator)
        self.projections = linear(hidden, 3 * hidden, generator)  # h1, h2, h3 as one product

    def forward(self, before_BH: Tensor, own_BH: Tensor) -> Tensor:
        both_BUH = torch.stack((F.silu(self.passed(before_BH)), own_BH), 1)
        h1_BUH, h2_BUH, h3_BUH = self.projections(both_BUH).chunk(3, 2)
        logit_BU = (h1_BUH * h2_BUH).sum(2) / math.sqrt(own_BH.shape[1])
        mixed_BH: Tensor = (logit_BU.softmax(1).unsqueeze(2) * h3_BUH).sum(1)
        return mixed_BH


class AITM(nn.Module):
    def __init__(self, parts: Parts) -> None:
        super().__init__()
        hidden, new = parts.settings.hidden, parts.generator
        self.inputs = parts.inputs()
        self.towers = nn.ModuleList(Experts(self.inputs.width, 1, hidden, new) for _ in parts.kinds)
        self._before = [kind.tasks[1] if len(kind.tasks) > 1 else None for kind in parts.kinds]
        self.transfers = nn.ModuleDict(
            {str(t): Transfer(hidden, new) for t, b in enumerate(self._before) if b is not None}
        )
        self.heads = nn.ModuleList(parts.heads(hidden))

    def forward(self, embedding_BFH: Tensor, batch: Batch) -> Tensor:
        return self.read(self.shared(embedding_BFH, batch), batch)

    def shared(self, embedding_BFH: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        return (self.inputs(embedding_BFH, batch),)

    def read(self, shared: Sequence[Tensor], batch: Batch) -> Tensor:
        (input_BX,) = shared
        own = [tower(input_BX).squeeze(1) for tower in self.towers]
        mixed: dict[int, Tensor] = {}
        for task in range(len(own)):
            self._mix(task, own, mixed)
        return torch.cat([head(mixed[t], batch) for t, head in enumerate(self.heads)], 1)

    def _mix(self, task: int, own: Sequence[Tensor], mixed: dict[int, Tensor]) -> Tensor:
        """z of a task, after those of the steps before it."""
        if task not in mixed:
            before = self._before[task]
            mixed[task] = (
                own[task]
                if before is None
                else self.transfers[str(task)](self._mix(before, own, mixed), own[task])
            )
        return mixed[task]

    def mixtures(self, embedding_BFH: Tensor, batch: Batch) -> list[Mixture]:
        return []

    def shared_parameters(self) -> list[nn.Parameter]:
        return list(self.inputs.parameters())

    def head_parameters(self, task: int) -> list[nn.Parameter]:
        """A later step reads the towers before it as well: its kind names those tasks."""
        own = [self.towers[task], self.heads[task]]
        if str(task) in self.transfers:
            own.append(self.transfers[str(task)])
        return [parameter for layer in own for parameter in layer.parameters()]
