"""The gradient of remembered rows that a step must not go against (A-GEM), over whatever the step moves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stream_mtl.joint_loss import JointRows, logit_shift, reference_rows, task_losses
from stream_mtl.rehearsal.agem import project
from stream_mtl.tasks.base import TaskKind


def reference_gradients(
    rows: JointRows,
    logit_BC: Tensor,
    kinds: Sequence[TaskKind],
    spread_T: Tensor,
    sources: Sequence[Tensor],
) -> tuple[Tensor, ...] | None:
    """Of the draws that are set aside as a reference, one a source; None without any. Keeps the graph."""
    reference = reference_rows(rows)
    if reference is None:
        return None
    shift_BC = logit_shift(reference, kinds, None)
    loss = task_losses(reference, logit_BC, kinds, spread_T, shift_BC).sum()
    return torch.autograd.grad(
        loss, sources, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def kept_to(
    reference: Sequence[Tensor], gradients: Sequence[Tensor | None], gradient_UH: Tensor
) -> tuple[list[Tensor | None], Tensor]:
    """The step's gradients without what goes against the reference, whose first is that of the touched rows."""
    moving = [i for i, gradient in enumerate(gradients) if gradient is not None]
    found = [gradient_UH, *(g for g in gradients if g is not None)]
    kept = project(found, [reference[0], *(reference[i + 1] for i in moving)])
    projected: list[Tensor | None] = [None] * len(gradients)
    for i, gradient in zip(moving, kept[1:], strict=True):
        projected[i] = gradient
    return projected, kept[0]
