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
        return input_BX, self._activated(self.expert(input_BX))

    def read(self, shared: Sequence[Tensor], batch: Batch) -> Tensor:
        input_BX, expert_BEH = shared
        return self._mixed(expert_BEH, F.linear(input_BX, *self._gates()), batch)

    def first(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.expert.weight, self.expert.bias), self._gates()]

    def onward(self, first: Sequence[Tensor], batch: Batch) -> Tensor:
        expert_BO, gate_BG = first
        return self._mixed(self._activated(expert_BO), gate_BG, batch)

    def _activated(self, expert_BO: Tensor) -> Tensor:
        expert_BEH = expert_BO.view(-1, self.experts, self.hidden)
        return F.silu(F.layer_norm(expert_BEH, (self.hidden,)))  # the towers rescale

    def _mixed(self, expert_BEH: Tensor, gate_BG: Tensor, batch: Batch) -> Tensor:
        mixed_BTH = torch.bmm(self._shares(gate_BG), expert_BEH)
        mixed = mixed_BTH.unbind(1)  # unlike slices, its backward is one stack
        heads = zip(self.heads, mixed, strict=True)
        return torch.cat([head(mixed_BH, batch) for head, mixed_BH in heads], 1)

    def _gates(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of all gates: one product for all, since thin ones are slow."""
        gates = [gate.get_parameter for gate in self.gates]
        weight = torch.cat([parameter("weight") for parameter in gates])
        return weight, torch.cat([parameter("bias") for parameter in gates])

    def _shares(self, gate_BG: Tensor) -> Tensor:
        """B x T x E, each task's mixture; worked out across rows, since a softmax over four numbers is slow."""
        logit_TEB = gate_BG.T.reshape(len(self.gates), self.experts, len(gate_BG))
        return logit_TEB.softmax(1).permute(2, 0, 1).contiguous()

    def mixtures(self, embedding_BFH: Tensor, batch: Batch) -> list[Mixture]:
        input_BX, expert_BEH = self.shared(embedding_BFH, batch)
        names = tuple(f"shared{e}" for e in range(self.experts))
        share_BTE = self._shares(F.linear(input_BX, *self._gates()))
        gates = zip(self._tasks, share_BTE.unbind(1), strict=True)
        return [Mixture(task, names, expert_BEH, gate_BE) for task, gate_BE in gates]

    def shared_parameters(self) -> list[nn.Parameter]:
        return [*self.inputs.parameters(), *self.expert.parameters()]

    def head_parameters(self, task: int) -> list[nn.Parameter]:
        return [*self.gates[task].parameters(), *self.heads[task].parameters()]
