"""LwF: fresh rows also learn what an earlier model says of them (Li & Hoiem, ECCV 2016), head by head.

Needs no memory: the earlier model is a frozen copy, taken at the end of every span of the stream. Of a class head the
cross-entropy of softened distributions (temperature 2), of a value half the squared distance, of a yes or no the binary
cross-entropy; each less its least value, so that agreement costs nothing. Deviations: all heads are distilled, those
without fresh labels too, and the embedding table is part of the copy. Weak where new rows look unlike old ones (.23 on
Split-MNIST, Avalanche): for streams that may store no rows.

Legend: B rows, C logits of all heads, T tasks, R table rows, H width.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_mtl.batch import Batch
from stream_mtl.optim import copy_tensors
from stream_mtl.rehearsal.base import Context
from stream_mtl.state import State
from stream_mtl.tasks.base import TaskKind

_TEMPERATURE = 2.0


class Teacher:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._teacher = copy.deepcopy(context.model)
        if isinstance(self._teacher, nn.Module):
            self._teacher.requires_grad_(False)
        self._table_RH = context.table_RH.clone()
        self._taught = torch.full((), -1, dtype=torch.int64)  # version of the copy; -1: none yet

    def fresh_shift(self, fresh: Batch) -> Tensor | None:
        return None

    def losses(self, fresh: Batch, logit_BC: Tensor) -> Tensor | None:
        if self._taught < 0:
            return None
        with torch.no_grad():
            taught_BC = self._teacher(self._context.embedded(fresh, self._table_RH), fresh)
        alpha = self._context.settings.alpha
        distances = [distance(kind, logit_BC, taught_BC).mean() for kind in self._context.kinds]
        return alpha * torch.stack(distances)

    def learned(self, fresh: Batch, version: int) -> None:
        every = self._context.settings.lwf_every
        if every and version % every == 0:
            self.consolidate(version)

    @torch.no_grad()
    def consolidate(self, version: int) -> None:
        live = [p.detach() for _, p in self._context.model.named_parameters()]
        torch._foreach_copy_([p for _, p in self._teacher.named_parameters()], live)
        self._table_RH.copy_(self._context.table_RH)
        self._taught.fill_(version)

    def state(self) -> State:
        named = {f"teacher/{n}": p.detach() for n, p in self._teacher.named_parameters()}
        return {**named, "table_RH": self._table_RH, "taught": self._taught}

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "rehearsal")


def distance(kind: TaskKind, logit_BC: Tensor, taught_BC: Tensor) -> Tensor:
    """Of the own head's logits from those taught, a row (B), in the unit of the kind's loss; 0 at agreement."""
    own = slice(kind.columns[0], kind.columns[0] + kind.width)
    now_BW, taught_BW = logit_BC[:, own], taught_BC[:, own]
    if kind.spread == "class_entropy":
        log_now_BW = (now_BW / _TEMPERATURE).log_softmax(1)
        log_taught_BW = (taught_BW / _TEMPERATURE).log_softmax(1)
        return (log_taught_BW.exp() * (log_taught_BW - log_now_BW)).sum(1)
    if kind.spread == "variance":
        return (now_BW - taught_BW).square().squeeze(1) / 2
    prob_BW = taught_BW.sigmoid()
    cross_BW = F.binary_cross_entropy_with_logits(now_BW, prob_BW, reduction="none")
    least_BW = F.binary_cross_entropy_with_logits(taught_BW, prob_BW, reduction="none")
    return (cross_BW - least_BW).sum(1)
