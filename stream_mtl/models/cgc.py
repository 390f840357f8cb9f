"""Customised gate control: experts that all tasks share beside private ones (Tang et al., RecSys 2020, section 4.1).

Task k mixes the shared experts and its own by softmax(W_k x). The other tasks neither read nor move its private ones.
Experts as in HoME: normalised, with SiLU. Legend: B rows, X inputs, E shared experts, P private ones, H width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stream_mtl.batch import Batch
from stream_mtl.experts import Experts, gate_logits, mix
from stream_mtl.growth import SpareExperts
from stream_mtl.layers import Parts
from stream_mtl.linear import linear
from stream_mtl.models.base import Mixture


class CGC(nn.Module):
    """One level; `ple` has several. With `model.spare_experts` it can grow (`growth`)."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        settings, new = parts.settings, parts.generator
        self._tasks = parts.spec.tasks
        self.inputs = parts.inputs()
        width, own = self.inputs.width, settings.private_experts
        self.expert = Experts(width, settings.experts, settings.hidden, new)
        self.private = nn.ModuleList(Experts(width, own, settings.hidden, new) for _ in parts.kinds)
        self.gates = nn.ModuleList(linear(width, settings.experts + own, new) for _ in parts.kinds)
        self.heads = nn.ModuleList(parts.heads(settings.hidden))
        self.spare = nn.ModuleList(
            SpareExperts(width, settings.spare_experts, settings.hidden, new)
            for _ in (parts.kinds if settings.spare_experts else ())
        )

    def forward(self, embedding_BFH: Tensor, batch: Batch) -> Tensor:
        return self.read(self.shared(embedding_BFH, batch), batch)

    def shared(self, embedding_BFH: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """Inputs, which gates and private experts read, and the shared experts' outputs B x E x H."""
        input_BX = self.inputs(embedding_BFH, batch)
        return input_BX, self.expert(input_BX)

    def read(self, shared: Sequence[Tensor], batch: Batch) -> Tensor:
        mixed = [mix(gate_BE, pools) for gate_BE, *pools in self._mixed(shared)]
        if self.spare:
            grown = [spare(shared[0]) for spare in self.spare]
            mixed = [m_BH + g_BH for m_BH, g_BH in zip(mixed, grown, strict=True)]
        heads = zip(self.heads, mixed, strict=True)
        return torch.cat([head(mixed_BH, batch) for head, mixed_BH in heads], 1)

    def _mixed(self, shared: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """For each task its gate B x (E + P), the shared experts' outputs and its own."""
        input_BX, expert_BEH = shared
        gates = gate_logits(self.gates, input_BX)
        return [
            (logit_BE.softmax(1), expert_BEH, private(input_BX))
            for logit_BE, private in zip(gates, self.private, strict=True)
        ]

    def mixtures(self, embedding_BFH: Tensor, batch: Batch) -> list[Mixture]:
        mixtures = []
        mixed = self._mixed(self.shared(embedding_BFH, batch))
        for task, (gate_BE, shared_BEH, own_BPH) in zip(self._tasks, mixed, strict=True):
            names = [f"shared{e}" for e in range(shared_BEH.shape[1])]
            names += [f"{task}{p}" for p in range(own_BPH.shape[1])]
            pool_BEH = torch.cat((shared_BEH, own_BPH), 1)
            mixtures.append(Mixture(task, tuple(names), pool_BEH, gate_BE))
        return mixtures

    def shared_parameters(self) -> list[nn.Parameter]:
        return [*self.inputs.parameters(), *self.expert.parameters()]

    def head_parameters(self, task: int) -> list[nn.Parameter]:
        own = [self.private[task], self.gates[task], self.heads[task], *self.spare[task : task + 1]]
        return [parameter for layer in own for parameter in layer.parameters()]
