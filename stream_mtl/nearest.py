"""The highest of each row of a matrix of cosines.

Legend: U rows, N items, K found pairs.
"""

from __future__ import annotations

import numpy as np

from stream_mtl.shop.columns import Array, Ints

SAMPLED = 16  # one similarity in this many tells about where the nearest begin


def nearest(cosine_UN: Array, n: int, least: float) -> tuple[Ints, Ints]:
    """(row, item) of the n highest above `least` in each row, sorted."""
    n = min(n, cosine_UN.shape[1])
    if not n:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    close_UN = cosine_UN > least
    for row in np.flatnonzero(np.count_nonzero(close_UN, axis=1) > n).tolist():
        cosine_N = cosine_UN[row]
        close_K = cosine_N[cosine_N > _floor(cosine_N, n, least)]
        near_N = cosine_N >= np.partition(close_K, -n)[-n]  # far cheaper than argpartition
        if np.count_nonzero(near_N) > n:  # equal ones about the border
            near_N[:] = False
            near_N[np.argpartition(cosine_N, -n)[-n:]] = True
        close_UN[row] &= near_N
    row_K, item_K = np.nonzero(close_UN)
    return row_K, item_K


def _floor(cosine_N: Array, n: int, least: float) -> float:
    """A bound that at least n exceed, and not many more, where more than n exceed `least`: told from a sample."""
    sample = cosine_N[::SAMPLED]
    rank = 2 * n // SAMPLED + SAMPLED
    if len(sample) > 2 * rank:
        bound = float(np.partition(sample, -rank)[-rank])
        if bound > least and np.count_nonzero(cosine_N > bound) >= n:
            return bound
    return least
