"""NDCG@k: gain 2^label - 1, discount log2(1 + rank) (Burges et al., ICML 2005)."""

from __future__ import annotations

import numpy as np

from stream_mtl.measures.base import Floats, Judged
from stream_mtl.prequential import NDCG_AT, list_ndcgs


class Ndcg:
    """Sums: Σ NDCG, lists. A list weighs what its last row weighs; it must not be cut by two calls.

    Lists with one row or without a positive say nothing and are left out.
    """

    def __init__(self, at: int = NDCG_AT) -> None:
        self._at = at

    def sums(self, rows: Judged) -> Floats:
        run_N = np.cumsum(np.diff(rows.group_N, prepend=rows.group_N[:1]) != 0)
        ndcg_L, last_L = list_ndcgs(run_N, rows.said_N, rows.label_N, rows.tie_N, self._at)
        weight_L = rows.weight_N[last_L]
        return np.array([weight_L @ ndcg_L, weight_L.sum()])

    def value(self, sums_K: Floats) -> float | None:
        total, lists = sums_K
        return float(total / lists) if lists else None

    def over(self, rows: Judged) -> float | None:
        return self.value(self.sums(rows))
