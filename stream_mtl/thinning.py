"""Of many negatives a part: which rows are learned from (`tasks.X.keep_negatives`).

A negative of a task is kept where a hash of its row is below the task's share w; a positive always. What the sample's
log-odds are off by, ln(1/w), is the same for every row of the task, fresh or remembered, and is added to the logits in
training alone (`tasks.binary`, `tasks.funnel`; He et al., ADKDD 2014, section 6.3). A row without a known label left is dropped: it
costs no step. A label that turns keeps its row's hash, so that a row is sampled once.

One hash for all tasks of a row: with independent ones fewer rows would go. Legend: B rows, T tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from stream_mtl.batch import Batch
from stream_mtl.config import Task
from stream_mtl.hashing import hash64, mix64

_SALT = hash64("negatives that are learned from")


def thinner(tasks: Mapping[str, Task]) -> Callable[[Batch], Batch] | None:
    """Drops what these tasks do not keep; None where they keep everything."""
    keep_T = torch.tensor([task.keep_negatives for task in tasks.values()], dtype=torch.float64)
    return None if bool((keep_T == 1).all()) else lambda batch: thinned(batch, keep_T)


def thinned(batch: Batch, keep_T: Tensor) -> Batch:
    """The rows that are left, with the labels that are."""
    chance_B = torch.from_numpy(mix64(batch.row_key_B.numpy(), _SALT)).double() / 2**63
    kept_BT = (batch.label_BT > 0) | (chance_B.unsqueeze(1) < keep_T)
    mask_BT = batch.mask_BT & kept_BT
    return replace(batch, mask_BT=mask_BT).select(mask_BT.any(1))
