"""What a measure of quality promises. Legend: N judged predictions of one task, K numbers of a sum.

A measure is sums and a value that follows from them. Sums of two sets of rows added are the sums of both, so
they merge over partitions, and multiplied by a number below 1 they fade. Where the sums
are coarser than the rows, `over` judges the rows themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Judged:
    """What was said of N rows, and what turned out.

    `said_N` is a probability, a number or the index of a class, as the measure needs it; `group_N` the
    user (GAUC) or the list (NDCG; rows of a list stand together); equal scores are ordered by `tie_N`, for
    the order of rows may tell the label. Rows that nothing was said of (NaN) are not judged.
    """

    said_N: Floats
    label_N: Floats
    group_N: Ints
    tie_N: Ints
    weight_N: Floats

    def __len__(self) -> int:
        return len(self.said_N)

    def rows(self, chosen: slice | npt.NDArray[np.bool_]) -> Judged:
        return Judged(*(getattr(self, f.name)[chosen] for f in fields(self)))


def judged(
    said: npt.ArrayLike,
    label: npt.ArrayLike,
    group: npt.ArrayLike | None = None,
    tie: npt.ArrayLike | None = None,
    weight: npt.ArrayLike | None = None,
) -> Judged:
    """Rows from whatever numpy takes: one group and weight 1 where nothing is given. NaNs are left out."""
    said_N, label_N = (
        np.atleast_1d(np.asarray(said, float)),
        np.atleast_1d(np.asarray(label, float)),
    )
    count = len(said_N)
    rows = Judged(
        said_N,
        label_N,
        np.zeros(count, np.int64) if group is None else np.atleast_1d(np.asarray(group, np.int64)),
        np.arange(count) if tie is None else np.atleast_1d(np.asarray(tie, np.int64)),
        np.ones(count) if weight is None else np.atleast_1d(np.asarray(weight, float)),
    )
    return rows.rows(np.isfinite(said_N) & np.isfinite(label_N))


def concat(parts: Sequence[Judged]) -> Judged:
    """One after the other; at least one."""
    columns = ([getattr(part, f.name) for part in parts] for f in fields(Judged))
    return Judged(*(np.concatenate(column) for column in columns))


class Measure(Protocol):
    """One figure of quality; holds no state."""

    def sums(self, rows: Judged) -> Floats:
        """Of the rows, each counting `weight_N`; the first axis may be as long as the classes need."""
        ...

    def value(self, sums_K: Floats) -> float | None:
        """None where it is not defined: no rows, one class only."""
        ...

    def over(self, rows: Judged) -> float | None:
        """Of exactly these rows."""
        ...
