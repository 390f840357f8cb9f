"""Rows of a span that ends, from the memories: for regularisers that look at them once more.

Of every task alike, drawn without replacement from the rows that were stored since the span began, or from all that
it remembers where none were (a full reservoir takes few rows of a short span). A row teaches the task whose memory it
is from. Lists stay whole. Legend: T tasks, N units (rows, or lists).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from stream_mtl.held import Ints
from stream_mtl.joint_loss import join_rows
from stream_mtl.memory.base import Memory
from stream_mtl.regularizers.base import Lesson

_PART = 16  # rows of one gradient: fewer are nearer to Fisher's information, and cost more


def span_lessons(
    memories: Sequence[Memory], rows: int, since: int, spread_T: Tensor, seed: int
) -> list[Lesson]:
    """About `rows` rows in all (0: none), in parts of about 16; `since`: steps done when the span began."""
    filled = [memory for memory in memories if len(memory)] if rows else []
    generator = Generator().manual_seed(seed)
    lessons = []
    for memory in filled:
        for pick_N in _parts(memory, max(1, rows // len(filled)), since, generator):
            joint = join_rows(memory.take(pick_N).batch, ())
            lessons.append(Lesson(joint, spread_T))
    return lessons


def _parts(memory: Memory, rows: int, since: int, generator: Generator) -> list[Ints]:
    count_N = memory.counts()
    first_N = np.cumsum(count_N) - count_N
    version_N = memory.column("version_B").cpu().numpy()[first_N]
    own_N = np.flatnonzero(version_N > since)
    if not len(own_N):
        own_N = np.arange(len(count_N))
    mean = float(count_N.mean())  # rows a unit
    order_N = torch.randperm(len(own_N), generator=generator).numpy()
    pick_N = own_N[order_N[: max(1, round(rows / mean))]]
    part = max(1, round(_PART / mean))
    return [pick_N[at : at + part] for at in range(0, len(pick_N), part)]
