"""What a replay memory keeps or drops as one: a row, or a whole list of rows.

Legend: N units, R rows of these units, B rows of a batch, K classes of labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stream_mtl.batch import Batch
from stream_mtl.hashing import mix64

Ints = npt.NDArray[np.int64]
Keys = Callable[[Batch, Ints, bool, int], Ints]  # of rows, or of the lists they are in; salted

_TIME_BITS = 43  # of 63: event times in ms up to the year 2248; a hash orders what is as old


@dataclass(frozen=True, slots=True)
class Units:
    """Distinct units; rows of a unit stand together, `count_N` of them each."""

    key_N: Ints
    count_N: Ints
    row_R: Ints  # positions in the batch
    offset_R: npt.NDArray[np.float32] | None  # to add to offset_B where a list was thinned

    def only(self, keep_N: npt.NDArray[np.bool_]) -> Units:
        if keep_N.all():
            return self
        keep_R = np.repeat(keep_N, self.count_N)
        offset_R = None if self.offset_R is None else self.offset_R[keep_R]
        return Units(self.key_N[keep_N], self.count_N[keep_N], self.row_R[keep_R], offset_R)


def random_keys(batch: Batch, row_N: Ints, whole_lists: bool, salt: int) -> Ints:
    """Uniform in [0, 2^63): the largest are a uniform sample."""
    return mix64(_identity(batch, whole_lists)[row_N], salt)


def newest_keys(batch: Batch, row_N: Ints, whole_lists: bool, salt: int) -> Ints:
    """Event time first, then a hash: the largest are the newest, whatever order they came in."""
    time_N = batch.time_B.cpu().numpy()[row_N].clip(0, 2**_TIME_BITS - 1)
    return (time_N << (63 - _TIME_BITS)) | (
        random_keys(batch, row_N, whole_lists, salt) >> _TIME_BITS
    )


def _identity(batch: Batch, whole_lists: bool) -> Ints:
    identity_B: Ints = (batch.list_key_B if whole_lists else batch.row_key_B).cpu().numpy()
    return identity_B


def group(
    batch: Batch, row_R: Ints, unit_rows: int, task: int, salt: int, keys: Keys = random_keys
) -> Units:
    """Units of the given rows (ascending), with their keys; of a unit given twice the last counts."""
    if unit_rows == 1:
        start_N, count_N = np.arange(len(row_R)), np.ones(len(row_R), dtype=np.int64)
    else:
        identity_R = _identity(batch, True)[row_R]
        start_N = np.flatnonzero(np.diff(identity_R, prepend=identity_R[:1] ^ 1))
        count_N = np.diff(start_N, append=len(row_R))
    key_N = keys(batch, row_R[start_N], unit_rows > 1, salt)
    units = Units(key_N, count_N, row_R, None).only(_last_of_each(key_N))
    if unit_rows > 1 and len(units.count_N) and units.count_N.max() > unit_rows:
        units = _thinned(units, batch, unit_rows, task, salt)
    return units


def _last_of_each(key_N: Ints) -> npt.NDArray[np.bool_]:
    sorted_N = np.sort(key_N)
    if (sorted_N[1:] != sorted_N[:-1]).all():
        return np.ones(len(key_N), dtype=bool)
    _, from_end = np.unique(key_N[::-1], return_index=True)
    keep_N = np.zeros(len(key_N), dtype=bool)
    keep_N[len(key_N) - 1 - from_end] = True
    return keep_N


def _thinned(units: Units, batch: Batch, unit_rows: int, task: int, salt: int) -> Units:
    """Long lists keep their positives and a hash-chosen part of the rest.

    Keeping negatives at rate w makes every kept row look 1/w times likelier: ln(1/w) goes into the
    offset, as for any other sampling of negatives.
    """
    list_R = np.repeat(np.arange(len(units.count_N)), units.count_N)
    positive_R = batch.label_BT[:, task].cpu().numpy()[units.row_R] > 0
    chance_R = mix64(batch.row_key_B.cpu().numpy()[units.row_R], salt ^ 1)
    order = np.lexsort((chance_R, ~positive_R, list_R))
    start_N = np.cumsum(units.count_N) - units.count_N
    keep = np.sort(order[np.arange(len(order)) - start_N[list_R] < unit_rows])
    negatives_N = np.bincount(list_R[~positive_R], minlength=len(start_N))
    kept_N = np.bincount(list_R[keep][~positive_R[keep]], minlength=len(start_N))
    offset_N = np.log(np.maximum(negatives_N, 1) / np.maximum(kept_N, 1)).astype(np.float32)
    count_N = np.minimum(units.count_N, unit_rows)
    return Units(units.key_N, count_N, units.row_R[keep], offset_N[list_R[keep]])


class Counted(Protocol):
    def __len__(self) -> int: ...

    def units(self) -> int: ...


def wanted_units(memory: Counted, rows: int) -> int:
    """Units to draw for about `rows` rows; 0 from an empty memory."""
    units, held = memory.units(), len(memory)
    if not units or rows <= 0:
        return 0
    return rows if held == units else max(1, round(rows * units / held))


def unit_means(value_R: Tensor, count_N: Ints) -> Tensor:
    """Mean over the rows of each unit (N), on the CPU."""
    value_R = value_R.detach().double().cpu()
    if (count_N == 1).all():
        return value_R
    unit_R = torch.from_numpy(np.repeat(np.arange(len(count_N)), count_N))
    sum_N = torch.zeros(len(count_N), dtype=torch.float64).index_add_(0, unit_R, value_R)
    return sum_N / torch.from_numpy(count_N)


def scaled_log_chance(log_chance_K: Tensor, share_K: Tensor) -> Tensor:
    """Scaled as `memory.base.Sample` asks; 0 for classes that have no share of the sample."""
    log_chance_K, share_K = log_chance_K.double(), share_K.double()
    mean = (share_K * (-log_chance_K).exp()).sum()
    return torch.where(share_K > 0, log_chance_K + mean.log(), 0.0).float()
