"""A small convex quadratic program, solved exactly and without chance: tens of variables at most.

Legend: A variables.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_TOLERANCE = 1e-12  # of a multiplier or a variable, for entries of order 1
_ROUNDS = 40  # per variable; a run on 16 variables needs about 20 in all


def minimise(quadratic_AA: Floats, linear_A: Floats, total: float | None = None) -> Floats:
    """argmin of x'Qx / 2 + q'x over x >= 0, and over sum x = `total` where one is given.

    Q must be positive definite, with entries of order 1. Primal active sets: solve with the free variables alone; walk
    towards that solution until one meets 0 and is fixed, or free the one that the slope pulls up most
    (Nocedal & Wright 2006, algorithm 16.3; without a total, Lawson & Hanson's). Every round lowers the objective, so it ends.
    """
    size = len(linear_A)
    x_A = np.zeros(size) if total is None else np.full(size, total / size)
    free_A = x_A > 0
    for _ in range(_ROUNDS * size):
        aim_A, level = _solve_free(quadratic_AA, linear_A, free_A, total)
        below_A = free_A & (aim_A < -_TOLERANCE)
        if below_A.any():
            part_A = np.full(size, np.inf)
            part_A[below_A] = x_A[below_A] / (x_A[below_A] - aim_A[below_A])
            first = int(part_A.argmin())
            x_A = np.maximum(x_A + part_A[first] * (aim_A - x_A), 0.0)
            x_A[first], free_A[first] = 0.0, False
            continue
        x_A = np.maximum(aim_A, 0.0)
        slope_A = np.where(free_A, 0.0, quadratic_AA @ x_A + linear_A - level)
        steepest = int(slope_A.argmin())
        if slope_A[steepest] >= -_TOLERANCE:
            break
        free_A[steepest] = True
    return x_A


def _solve_free(
    quadratic_AA: Floats, linear_A: Floats, free_A: npt.NDArray[np.bool_], total: float | None
) -> tuple[Floats, float]:
    """The minimum over the free variables, the others 0, and the multiplier of the total."""
    x_A = np.zeros(len(linear_A))
    index = np.flatnonzero(free_A)
    if not len(index):
        return x_A, 0.0
    among = quadratic_AA[np.ix_(index, index)]
    plain = np.linalg.solve(among, -linear_A[index])
    if total is None:
        x_A[index] = plain
        return x_A, 0.0
    lift = np.linalg.solve(among, np.ones(len(index)))
    level = float((total - plain.sum()) / lift.sum())
    x_A[index] = plain + level * lift
    return x_A, level
