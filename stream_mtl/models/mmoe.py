"""Multi-gate mixture of experts (Ma et al., KDD 2018), experts as in HoME: normalised, with SiLU.

Legend: B rows, X inputs, E experts, H width, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_mtl.batch import Batch
from stream_mtl.layers import Parts
from stream_mtl.linear import linear
from stream_mtl.models.base import Mixture


class MMoE(nn.Module):
    """All experts are one matrix product; each task mixes them by its own gate."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.experts, self.hidden = parts.settings.experts, parts.settings.hidden
        self._tasks = parts.spec.tasks
        self.inputs = parts.inputs()
        width = self.inputs.width
        self.expert = linear(width, self.experts * self.hidden, parts.generator)
        self.gates = nn.ModuleList(
            linear(width, self.experts, parts.generator) for _ in parts.kinds
        )
        self.heads = nn.ModuleList(parts.heads(self.hidden))

    def forward(self, embedding_BFH: Tensor, batch: Batch) -> Tensor:
        return self.read(self.shared(embedding_BFH, batch), batch)

    def shared(self, embedding_BFH: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """Inputs, which the gates read, and the experts' outputs B x E x H."""
        input_BX = self.inputs(embedding_BFH, batch)
        expert_BEH = self.expert(input_BX).view(-1, self.experts, self.hidden)
        expert_BEH = F.silu(F.layer_norm(expert_BEH, (self.hidden,)))  # the towers rescale
        return input_BX, expert_BEH

    def read(self, shared: Sequence[Tensor], batch: Batch) -> Tensor:
        input_BX, expert_BEH = shared
        mixed_BTH = torch.bmm(self._gates(input_BX), expert_BEH)
        mixed = mixed_BTH.unbind(1)  # unlike slices, its backward is one stack
        heads = zip(self.heads, mixed, strict=True)
        return torch.cat([head(mixed_BH, batch) for head, mixed_BH in heads], 1)

    def _gates(self, input_BX: Tensor) -> Tensor:
        """B x T x E, each task's mixture; one product for all, since thin ones are slow."""
        gates = [gate.get_parameter for gate in self.gates]
        weight = torch.cat([parameter("weight") for parameter in gates])
        bias = torch.cat([parameter("bias") for parameter in gates])
        logit_BG = F.linear(input_BX, weight, bias)
        return logit_BG.view(len(input_BX), len(gates), self.experts).softmax(2)

    def mixtures(self, embedding_BFH: Tensor, batch: Batch) -> list[Mixture]:
        input_BX, expert_BEH = self.shared(embedding_BFH, batch)
        names = tuple(f"shared{e}" for e in range(self.experts))
        gates = zip(self._tasks, self._gates(input_BX).unbind(1), strict=True)
        return [Mixture(task, names, expert_BEH, gate_BE) for task, gate_BE in gates]

    def shared_parameters(self) -> list[nn.Parameter]:
        return [*self.inputs.parameters(), *self.expert.parameters()]

    def head_parameters(self, task: int) -> list[nn.Parameter]:
        return [*self.gates[task].parameters(), *self.heads[task].parameters()]
