"""The only home of tensor bookkeeping: rows with their features, labels and masks.

Legend: B rows, F sparse fields, D dense features, E text dimension, T tasks.
An unknown label is masked, never a negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Spec:
    """Names and sizes that features, learner and scoring agree on; the columns are in these orders."""

    sparse_fields: tuple[str, ...]
    dense_fields: tuple[str, ...]
    tasks: tuple[str, ...]
    table_rows: int  # sparse ids are in [0, table_rows); 0 = missing
    text_dim: int  # 0 without an encoder
    positions: int = 32  # position ids are in [0, positions); 0 = not known, or at serving
    # of these names, sparse or dense: what a list's rows have in common, and what an item's rows have (`lists`)
    reader_fields: tuple[str, ...] = ()
    item_fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """B rows. Text vectors of missing titles or queries are all zeros."""

    sparse_BF: Tensor  # int64, rows of the one embedding table
    dense_BD: Tensor  # float32
    title_BE: Tensor  # float16
    query_BE: Tensor  # float16
    position_B: Tensor  # int64
    prior_B: Tensor  # float32, log-odds-like score of the candidates' own order
    offset_B: Tensor  # float32, added to logits in training only: log of the inverse sampling rate
    label_BT: (
        Tensor  # float32; where masked 0, or (funnels with a correction) what was said before;
    )
    # of a task with a delay, before it is learned: a code of `provisional`
    mask_BT: Tensor  # bool, True = label known
    weight_B: Tensor  # float32
    row_key_B: Tensor  # int64, hash of exposure and item: the example's identity
    list_key_B: Tensor  # int64, hash of the exposure: rows of one list stand together
    user_key_B: Tensor  # int64, hash of the user: for erasure
    time_B: Tensor  # int64, event time of the exposure in ms
    domain_B: Tensor  # int64, index of the domain, 0 = none

    def __len__(self) -> int:
        return int(self.sparse_BF.shape[0])

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))

    def select(self, index_R: Tensor) -> Batch:
        """Rows by position (int64) or by a boolean mask."""
        if index_R.dtype == torch.bool:
            index_R = index_R.nonzero().squeeze(1)
        return Batch(*(getattr(self, f.name).index_select(0, index_R) for f in fields(self)))

    def rows(self, start: int, stop: int) -> Batch:
        return Batch(*(getattr(self, f.name)[start:stop] for f in fields(self)))

    def clone(self) -> Batch:
        return Batch(*(getattr(self, f.name).clone() for f in fields(self)))


def concat(batches: Sequence[Batch]) -> Batch:
    """One batch after the other; at least one is needed, for its widths."""
    if len(batches) == 1:
        return batches[0]
    return Batch(*(torch.cat([getattr(b, f.name) for b in batches]) for f in fields(Batch)))


def empty(spec: Spec, rows: int = 0) -> Batch:
    """Zeroed rows of the right widths and types, all labels unknown."""
    tasks, dim = len(spec.tasks), spec.text_dim
    ints = {
        n: torch.zeros(rows, dtype=torch.int64) for n in ("position_B", "row_key_B", "list_key_B")
    }
    return Batch(
        sparse_BF=torch.zeros(rows, len(spec.sparse_fields), dtype=torch.int64),
        dense_BD=torch.zeros(rows, len(spec.dense_fields)),
        title_BE=torch.zeros(rows, dim, dtype=torch.float16),
        query_BE=torch.zeros(rows, dim, dtype=torch.float16),
        prior_B=torch.zeros(rows),
        offset_B=torch.zeros(rows),
        label_BT=torch.zeros(rows, tasks),
        mask_BT=torch.zeros(rows, tasks, dtype=torch.bool),
        weight_B=torch.ones(rows),
        user_key_B=torch.zeros(rows, dtype=torch.int64),
        time_B=torch.zeros(rows, dtype=torch.int64),
        domain_B=torch.zeros(rows, dtype=torch.int64),
        **ints,
    )


def list_index(list_key_B: Tensor) -> tuple[Tensor, int]:
    """Number the runs of equal list keys: (index in [0, lists) a row, number of lists)."""
    if not len(list_key_B):
        return torch.zeros(0, dtype=torch.int64, device=list_key_B.device), 0
    starts = torch.ones_like(list_key_B)
    starts[1:] = (list_key_B[1:] != list_key_B[:-1]).long()
    index_B = starts.cumsum(0) - 1
    return index_B, int(index_B[-1]) + 1
