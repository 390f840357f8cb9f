"""What stands around a model where the settings ask for it: second-order terms, and embeddings that a task has to itself.

Without them `wired` gives back the model as it is. A wrapper keeps the promises of `models/base.py`: what it adds is
read by the heads, and its parameters belong to them.
Legend: B rows, F sparse fields, H embedding width, P private fields, T tasks, G groups of fields, C logits of all heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_mtl.batch import Batch
from stream_mtl.errors import ConfigError
from stream_mtl.interactions import FactorTerms, pairs
from stream_mtl.layers import Dropout, Parts
from stream_mtl.linear import linear
from stream_mtl.models.base import Mixture, Model


def wired(model: Model, parts: Parts) -> Model:
    """The model with all that `model.interactions` and `model.private_fields` add to it."""
    settings = parts.settings
    if "fm" in settings.interactions:
        model = WithFactorTerms(model, parts)
    if settings.private_fields and settings.name == "single":
        raise ConfigError(
            "model.private_fields with model.name = 'single': its tasks share no embeddings anyway; drop one"
        )
    return WithPrivateFields(model, parts) if settings.private_fields else model


class WithFactorTerms(nn.Module):
    """Logits of the model plus those of `FactorTerms`."""

    inner: Model

    def __init__(self, model: Model, parts: Parts) -> None:
        super().__init__()
        self.inner = model
        self._fields = len(parts.spec.sparse_fields)
        self.terms = FactorTerms([kind.width for kind in parts.kinds], parts.settings.embedding_dim)

    def forward(self, embedding_BFH: Tensor, batch: Batch) -> Tensor:
        return self.read(self.shared(embedding_BFH, batch), batch)

    def shared(self, embedding_BFH: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        groups = torch.split(embedding_BFH, self._fields, 1)
        pairs_BGH = torch.stack([pairs(group_BFH) for group_BFH in groups], 1)
        return (*self.inner.shared(embedding_BFH, batch), pairs_BGH)

    def read(self, shared: Sequence[Tensor], batch: Batch) -> Tensor:
        terms_BC: Tensor = self.terms(shared[-1])
        return self.inner.read(shared[:-1], batch) + terms_BC

    def mixtures(self, embedding_BFH: Tensor, batch: Batch) -> list[Mixture]:
        return self.inner.mixtures(embedding_BFH, batch)

    def shared_parameters(self) -> list[nn.Parameter]:
        return self.inner.shared_parameters()

    def head_parameters(self, task: int) -> list[nn.Parameter]:
        return [*self.inner.head_parameters(task), *self.terms.of_task(task)]


class WithPrivateFields(nn.Module):
    """Logits of the model plus those of one expert a task, which alone reads the task's own embeddings.

    As in STEM-Net (Su et al., AAAI 2024), a task reads the shared embeddings and its own, and its loss moves no other
    task's. Deviations: only chosen fields have private rows; a task does not read the other tasks' rows (there it may,
    with the gradient stopped), so that what is looked up grows by the private fields alone; the expert is added to
    the logits, from zero on, instead of being mixed by a gate.
    """

    inner: Model

    def __init__(self, model: Model, parts: Parts) -> None:
        super().__init__()
        self.inner = model
        settings, fields = parts.settings, len(parts.spec.sparse_fields)
        self._fields, self._private = fields, len(settings.private_fields)
        self._width = settings.embedding_dim
        width = (fields + self._private) * self._width
        self.dropout = Dropout(settings.dropout)
        self.hidden = nn.ModuleList(
            linear(width, settings.tower, parts.generator) for _ in parts.kinds
        )
        self.out = nn.ModuleList(
            nn.Linear(settings.tower, k.width, bias=False) for k in parts.kinds
        )
        for layer in self.out.parameters():
            nn.init.zeros_(layer)

    def forward(self, embedding_BLH: Tensor, batch: Batch) -> Tensor:
        return self.read(self.shared(embedding_BLH, batch), batch)

    def shared(self, embedding_BLH: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        inner = self.inner.shared(embedding_BLH[:, : self._fields], batch)
        return (*inner, embedding_BLH.flatten(1))

    def read(self, shared: Sequence[Tensor], batch: Batch) -> Tensor:
        *inner, flat = shared
        looked_up = self._fields + len(self.out) * self._private
        embedding_BLH = flat.view(len(flat), looked_up, self._width)
        common_BX = embedding_BLH[:, : self._fields].flatten(1)
        logits = []
        for task, (hidden, out) in enumerate(zip(self.hidden, self.out, strict=True)):
            start = self._fields + task * self._private
            private_BX = embedding_BLH[:, start : start + self._private].flatten(1)
            hidden_BT = F.silu(hidden(torch.cat((common_BX, private_BX), 1)))
            logits.append(out(self.dropout(hidden_BT)))
        return self.inner.read(inner, batch) + torch.cat(logits, 1)

    def mixtures(self, embedding_BLH: Tensor, batch: Batch) -> list[Mixture]:
        return self.inner.mixtures(embedding_BLH[:, : self._fields], batch)

    def shared_parameters(self) -> list[nn.Parameter]:
        return self.inner.shared_parameters()

    def head_parameters(self, task: int) -> list[nn.Parameter]:
        own = (*self.hidden[task].parameters(), *self.out[task].parameters())
        return [*self.inner.head_parameters(task), *own]
