"""What learning one thing does to another: forgetting, backward and forward transfer, from a matrix of results.

Legend: a_SJ[i, j] is a figure of merit (more is better) on segment j, a task, domain or span of time, after
stage i of S, of which stage j is the one that trained on segment j (S = J); start_J[j] is the same before any
training. A figure of which less is better (loss, error) goes in negated. A cell that was not measured is
NaN; what needs it is NaN too, and a mean is taken over what is defined.

Two definitions of forgetting are in use, and they differ wherever a segment got better after its own stage:
a report has to say which one it means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Transfer:
    """None where nothing is defined: a single segment cannot be forgotten."""

    accuracy: float | None  # ACC: the mean over segments at the end
    forgetting_max: float | None  # from the best before the end
    forgetting_first_last: float | None  # from the segment's own stage
    backward: float | None  # BWT, the negated one above
    forward: float | None  # FWT; None without `start_J`


def forgotten_max(a_SJ: npt.ArrayLike) -> Floats:
    """Best over the stages before the last, less the last, of every segment but the last.

    Chaudhry et al. (ECCV 2018), eq. 3. Negative where the end is better than all before. (Mammoth takes the
    maximum over the last stage too and so is never negative: clip at 0 to compare.)
    """
    a_SJ = _square(a_SJ)
    before_SJ = np.where(np.isnan(a_SJ[:-1]), -np.inf, a_SJ[:-1])
    best_J = before_SJ[:, :-1].max(0, initial=-np.inf)
    return np.where(np.isfinite(best_J), best_J, np.nan) - a_SJ[-1, :-1]


def forgotten_first_last(a_SJ: npt.ArrayLike) -> Floats:
    """After its own stage less at the end, of every segment but the last (Avalanche's `Forgetting`)."""
    a_SJ = _square(a_SJ)
    return np.asarray(np.diagonal(a_SJ)[:-1] - a_SJ[-1, :-1])


def backward(a_SJ: npt.ArrayLike) -> Floats:
    """BWT of every segment but the last (Lopez-Paz and Ranzato, NeurIPS 2017, eq. 3)."""
    return -forgotten_first_last(a_SJ)


def forward(a_SJ: npt.ArrayLike, start_J: npt.ArrayLike) -> Floats:
    """FWT of every segment but the first: just before its own stage less before any (same paper, eq. 4)."""
    a_SJ, start_J = _square(a_SJ), np.asarray(start_J, float)
    if start_J.shape != a_SJ.shape[1:]:
        raise ValueError(f"start_J has shape {start_J.shape}, expected {a_SJ.shape[1:]}")
    return np.asarray(np.diagonal(a_SJ, 1) - start_J[1:])


def transfer(a_SJ: npt.ArrayLike, start_J: npt.ArrayLike | None = None) -> Transfer:
    """All of it. Raises ValueError for a matrix that is not square."""
    a_SJ = _square(a_SJ)
    return Transfer(
        accuracy=_mean(a_SJ[-1]),
        forgetting_max=_mean(forgotten_max(a_SJ)),
        forgetting_first_last=_mean(forgotten_first_last(a_SJ)),
        backward=_mean(backward(a_SJ)),
        forward=None if start_J is None else _mean(forward(a_SJ, start_J)),
    )


def _square(a_SJ: npt.ArrayLike) -> Floats:
    square = np.asarray(a_SJ, float)
    if square.ndim != 2 or square.shape[0] != square.shape[1] or not square.size:
        raise ValueError(f"results have shape {square.shape}, expected a stage a segment: (S, S)")
    return square


def _mean(values: Floats) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
