"""One shared representation under all towers (Caruana 1997): the measured baseline."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_mtl.batch import Batch
from stream_mtl.layers import Parts
from stream_mtl.linear import linear
from stream_mtl.models.base import Mixture


class SharedBottom(nn.Module):
    def __init__(self, parts: Parts) -> None:
        super().__init__()
        hidden = parts.settings.hidden
        self.inputs = parts.inputs()
        self.bottom = linear(self.inputs.width, hidden, parts.generator)
        self.norm = nn.LayerNorm(hidden)
        self.heads = nn.ModuleList(parts.heads(hidden))

    def forward(self, embedding_BFH: Tensor, batch: Batch) -> Tensor:
        return self.read(self.shared(embedding_BFH, batch), batch)

    def shared(self, embedding_BFH: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        return (self._activated(self.bottom(self.inputs(embedding_BFH, batch))),)

    def _activated(self, bottom_BH: Tensor) -> Tensor:
        return F.silu(self.norm(bottom_BH))

    def read(self, shared: Sequence[Tensor], batch: Batch) -> Tensor:
        (bottom_BH,) = shared
        return torch.cat([head(bottom_BH, batch) for head in self.heads], 1)

    def first(self) -> list[tuple[Tensor, Tensor]]:
        return [(self.bottom.weight, self.bottom.bias)]

    def onward(self, first: Sequence[Tensor], batch: Batch) -> Tensor:
        (bottom_BH,) = first
        return self.read((self._activated(bottom_BH),), batch)

    def mixtures(self, embedding_BFH: Tensor, batch: Batch) -> list[Mixture]:
        return []

    def shared_parameters(self) -> list[nn.Parameter]:
        layers = (self.inputs, self.bottom, self.norm)
        return [parameter for layer in layers for parameter in layer.parameters()]

    def head_parameters(self, task: int) -> list[nn.Parameter]:
        return list(self.heads[task].parameters())
