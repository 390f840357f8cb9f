"""How far a memory is learned by heart: the loss of held-out rows less that of remembered rows, task by task.

A small memory that is rehearsed at every step is seen thousands of times. When the model knows its rows better than
rows it never trained on, rehearsal has stopped to teach what they stand for: a larger memory, a lower `beta` or more
`alpha` help. In units of what knowing the labels' distribution alone would cost, so 0 is none and .1 a lot.

Legend: R rows, T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from stream_mtl.batch import Batch
from stream_mtl.held import Held
from stream_mtl.joint_loss import exposed
from stream_mtl.memory.base import Memory
from stream_mtl.prior_shift import inverse_chance
from stream_mtl.rehearsal.base import Context

ROWS = 1024  # of a memory that are looked at, at most about


@torch.inference_mode()
def overfitting(
    context: Context,
    held: Sequence[Held],
    memories: Sequence[Memory],
    held_out: Batch,
    spread_T: Tensor,
    seed: int,
) -> dict[str, float]:
    """Of the tasks that remember rows and have known labels among those held out; the rest is absent."""
    gaps = {}
    for task, (one, memory) in enumerate(zip(held, memories, strict=True)):
        known = held_out.select(held_out.mask_BT[:, task])
        sample = memory.sample(ROWS, Generator().manual_seed(seed))
        if sample is None or not len(known):
            continue
        weight_R = sample.batch.weight_B * inverse_chance(sample, one)
        remembered = _mean_loss(context, task, sample.batch, weight_R)
        unseen = _mean_loss(context, task, known, known.weight_B)
        gaps[one.task] = float((unseen - remembered) / spread_T[task])
    return gaps


def _mean_loss(context: Context, task: int, batch: Batch, weight_R: Tensor) -> Tensor:
    logit_RC = context.model(context.embedded(batch), batch)
    loss_R = context.kinds[task].loss(
        exposed(logit_RC, batch, context.kinds),
        batch.label_BT[:, task],
        batch.mask_BT[:, task],
        batch.list_key_B,
        batch.offset_B != 0,
    )
    return (loss_R * weight_R).sum() / weight_R.sum()
