"""One independent network a task, embeddings included: what the multi-task models are compared with.

Each task looks its ids up in rows of its own (`lookup`), and has its own inputs, bottom layer and tower; nothing is shared. A
task of kind `funnel` still multiplies the networks of its way: for a control without any transfer make it `binary`.
Legend: B rows, T tasks, F sparse fields, H width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stream_mtl.batch import Batch
from stream_mtl.experts import Experts
from stream_mtl.layers import Parts
from stream_mtl.models.base import Mixture


class Single(nn.Module):
    """Reads T * F embeddings, task after task."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        hidden = parts.settings.hidden
        self._fields = len(parts.spec.sparse_fields)
        self._width = parts.settings.embedding_dim
        inputs = [parts.inputs() for _ in parts.kinds]
        self.inputs = nn.ModuleList(inputs)
        self.bottoms = nn.ModuleList(
            Experts(one.width, 1, hidden, parts.generator) for one in inputs
        )
        self.heads = nn.ModuleList(parts.heads(hidden))

    def forward(self, embedding_BLH: Tensor, batch: Batch) -> Tensor:
        return self.read(self.shared(embedding_BLH, batch), batch)

    def shared(self, embedding_BLH: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """The embeddings as they came: no parameter stands before the tasks' own."""
        return (embedding_BLH.flatten(1),)

    def read(self, shared: Sequence[Tensor], batch: Batch) -> Tensor:
        (flat_BX,) = shared
        logits = []
        parts = zip(self.inputs, self.bottoms, self.heads, strict=True)
        for own_BX, (inputs, bottom, head) in zip(
            flat_BX.chunk(len(self.heads), 1), parts, strict=True
        ):
            own_BFH = own_BX.reshape(len(own_BX), self._fields, self._width)
            input_BX = inputs(own_BFH, batch)
            logits.append(head(bottom(input_BX).squeeze(1), batch))
        return torch.cat(logits, 1)

    def mixtures(self, embedding_BLH: Tensor, batch: Batch) -> list[Mixture]:
        return []

    def shared_parameters(self) -> list[nn.Parameter]:
        return []

    def head_parameters(self, task: int) -> list[nn.Parameter]:
        own = (self.inputs[task], self.bottoms[task], self.heads[task])
        return [parameter for layer in own for parameter in layer.parameters()]
