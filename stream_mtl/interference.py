"""How much a step on the fresh rows alone would hurt each remembered row (Aljundi et al., NeurIPS 2019, eq. 1).

The step is virtual: a plain gradient step of the dense parameters at the current rate, on copies, so that neither
model nor optimiser is touched. Under AdamW, which moves every parameter by about its rate whatever the gradient, the
step is given that length. Ids stay where they are.

Legend: R rows of a sample, T tasks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from stream_mtl.batch import Batch
from stream_mtl.held import Sample
from stream_mtl.joint_loss import exposed, join_rows, task_losses
from stream_mtl.rehearsal.base import Context


class Interference:
    """Of one step's fresh rows; the virtual step is made when it is first asked for."""

    def __init__(self, context: Context, fresh: Batch, spread_T: Tensor, rate: float, sgd: bool):
        self._context, self._fresh, self._spread_T = context, fresh, spread_T
        self._rate, self._sgd = rate, sgd
        self._moved: dict[str, Tensor] | None = None

    def growth(self, task: int, sample: Sample) -> Tensor:
        """Loss of the task on each row (R) after the virtual step, less that before."""
        assert isinstance(self._context.model, nn.Module)
        if self._moved is None:
            self._moved = self._step()
        batch, kinds = sample.batch, self._context.kinds
        embedding_RFH = self._context.embedded(batch)
        losses = []
        with torch.no_grad():
            for parameters in (self._moved, {}):
                logit_RC = functional_call(
                    self._context.model, parameters, (embedding_RFH, batch), strict=False
                )
                losses.append(
                    kinds[task].loss(
                        exposed(logit_RC, batch, kinds),
                        batch.label_BT[:, task],
                        batch.mask_BT[:, task],
                        batch.list_key_B,
                        batch.offset_B != 0,
                    )
                )
        after_R, before_R = losses
        return after_R - before_R

    def _step(self) -> dict[str, Tensor]:
        rows, model = join_rows(self._fresh, []), self._context.model
        logit_BC = model(self._context.embedded(rows.batch), rows.batch)
        loss = task_losses(rows, logit_BC, self._context.kinds, self._spread_T).sum()
        named = dict(model.named_parameters())
        found = torch.autograd.grad(loss, list(named.values()), materialize_grads=True)
        length = self._rate
        if not self._sgd:
            size = math.sqrt(sum(g.numel() for g in found))
            length *= size / float(nn.utils.get_total_norm(found).clamp(min=1e-12))
        return {
            name: (p - length * g).detach()
            for (name, p), g in zip(named.items(), found, strict=True)
        }
