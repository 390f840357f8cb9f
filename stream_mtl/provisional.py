"""What is told of a row whose label is not final yet: the codes that labels of tasks with a `delay` take.

A row of such a task is told of up to three times. Early, when its wait (`tasks.X.early_ms`) is over: SEEN_NO or
SEEN_YES, what was observed by then. Once more when a row that was SEEN_NO turns positive: LATE_YES. And when its window
closes, the truth, with the way that it came: MATURE_NO, MATURE_YES (seen early), MATURE_LATE. Plain 0 and 1 remain
what they are everywhere else: a true label, as memories and corrections have it.

So memories, evaluation, base rates and trust see `settled` labels only, and each row once: nothing of theirs has to know
of rows that come twice. Legend: B rows, T tasks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stream_mtl.batch import Batch

SEEN_NO: Final = 2.0
SEEN_YES: Final = 3.0
LATE_YES: Final = 4.0
MATURE_NO: Final = 5.0
MATURE_YES: Final = 6.0
MATURE_LATE: Final = 7.0

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


def told_early(label_BT: Floats, before_BT: Floats) -> tuple[Floats, Bools]:
    """Codes of provisional labels (0 or 1), and whether they are news, by what was told `before` (0: nothing)."""
    yes_BT = label_BT == 1
    first_BT = before_BT < SEEN_NO
    turned_BT = yes_BT & (before_BT == SEEN_NO)
    code_BT = np.where(turned_BT, LATE_YES, np.where(yes_BT, SEEN_YES, SEEN_NO))
    return code_BT.astype(np.float32), first_BT | turned_BT


def told_at_last(label_BT: Floats, before_BT: Floats) -> Floats:
    """Codes of final labels (0 or 1), by what was told before."""
    missed_BT = (before_BT == SEEN_NO) | (before_BT == LATE_YES)
    yes_BT = np.where(missed_BT, MATURE_LATE, MATURE_YES)
    return np.where(label_BT == 1, yes_BT, MATURE_NO).astype(np.float32)


def is_early(code_BT: Floats) -> Bools:
    """Whether the code is of a provisional label."""
    early: Bools = (code_BT >= SEEN_NO) & (code_BT <= LATE_YES)
    return early


def settled(batch: Batch, delayed_T: Tensor | None) -> Batch:
    """The batch as everything but the delayed losses may see it: true labels of 0 and 1, provisional ones unknown.

    `delayed_T`: which tasks have codes; None: none.
    """
    if delayed_T is None:
        return batch
    label_BT, mask_BT = batch.label_BT, batch.mask_BT
    mature_BT = delayed_T & (label_BT >= MATURE_NO)
    early_BT = delayed_T & (label_BT >= SEEN_NO) & ~mature_BT
    label_BT = torch.where(mature_BT, (label_BT > MATURE_NO).float(), label_BT)
    return replace(
        batch,
        label_BT=label_BT.masked_fill(early_BT, 0.0),
        mask_BT=mask_BT & ~early_BT,
    )
