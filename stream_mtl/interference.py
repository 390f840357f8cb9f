"""How much a step on the fresh rows alone would hurt each remembered row (Aljundi et al., NeurIPS 2019, eq. 1).

The step is virtual: a plain gradient step of the dense parameters at the current rate. Its values stand in for the
model's own while candidates are looked at, and the optimiser is not touched. Under AdamW, which moves every parameter by
about its rate whatever the gradient, the step is given that length. Ids stay where they are.

Legend: R rows of a sample, T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from stream_mtl.batch import Batch
from stream_mtl.held import Sample
from stream_mtl.joint_loss import exposed, join_rows, task_losses
from stream_mtl.rehearsal.base import Context


class Interference:
    """Makes virtual steps of one model."""

    def __init__(self, context: Context, sgd: bool) -> None:
        self._context, self._sgd = context, sgd
        # once: to look for them takes as long as a small model's forward
        self._parameters = [parameter for _, parameter in context.model.named_parameters()]

    def of(self, fresh: Batch, spread_T: Tensor, rate: float) -> VirtualStep:
        """Of the step on these rows."""
        return VirtualStep(self._context, self._parameters, fresh, spread_T, rate, self._sgd)


class VirtualStep:
    """Of one step's fresh rows; made when it is first asked for."""

    def __init__(
        self,
        context: Context,
        parameters: Sequence[nn.Parameter],
        fresh: Batch,
        spread_T: Tensor,
        rate: float,
        sgd: bool,
    ) -> None:
        self._context, self._parameters = context, parameters
        self._fresh, self._spread_T, self._rate, self._sgd = fresh, spread_T, rate, sgd
        self._moved: list[Tensor] | None = None

    def moved(self) -> list[Tensor]:
        """The parameters after it."""
        if self._moved is None:
            self._moved = self._taken()
        return self._moved

    def growth(self, task: int, sample: Sample) -> Tensor:
        """Loss of the task on each row (R) after the virtual step, less that before."""
        moved, embedding_RFH = self.moved(), self._context.embedded(sample.batch)
        with torch.no_grad():
            before_R = self._loss(task, sample.batch, embedding_RFH)
            with _standing_in(moved, self._parameters):
                after_R = self._loss(task, sample.batch, embedding_RFH)
        return after_R - before_R

    def _loss(self, task: int, batch: Batch, embedding_RFH: Tensor) -> Tensor:
        kinds = self._context.kinds
        return kinds[task].loss(
            exposed(self._context.model(embedding_RFH, batch), batch, kinds),
            batch.label_BT[:, task],
            batch.mask_BT[:, task],
            batch.list_key_B,
            batch.offset_B != 0,
        )

    def _taken(self) -> list[Tensor]:
        rows = join_rows(self._fresh, [])
        logit_BC = self._context.model(self._context.embedded(rows.batch), rows.batch)
        loss = task_losses(rows, logit_BC, self._context.kinds, self._spread_T).sum()
        found = torch.autograd.grad(loss, self._parameters, materialize_grads=True)
        length = self._rate
        if not self._sgd:
            size = math.sqrt(sum(g.numel() for g in found))
            length *= size / float(nn.utils.get_total_norm(found).clamp(min=1e-12))
        with torch.no_grad():
            return [p - length * g for p, g in zip(self._parameters, found, strict=True)]


@contextmanager
def _standing_in(values: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """The parameters have these values meanwhile; nothing is copied (torch's `functional_call` costs a forward)."""
    own = [parameter.data for parameter in parameters]
    try:
        for parameter, value in zip(parameters, values, strict=True):
            parameter.data = value
        yield
    finally:
        for parameter, value in zip(parameters, own, strict=True):
            parameter.data = value
