"""Area under the ROC curve: the share of (positive, negative) pairs in the right order, ties counting half."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from stream_mtl.measures.base import Floats, Judged
from stream_mtl.measures.gauc import Gauc
from stream_mtl.prequential import BUCKETS, buckets, histogram_auc, logits


class Auc:
    """Sums, 2 x H: weight by label and bucket of the logit, good to about 1e-4; a window is exact."""

    def __init__(self) -> None:
        self._exact = Gauc()  # of one group: exact and weighted

    def sums(self, rows: Judged) -> Floats:
        positive_N = (rows.label_N > 0.5).astype(np.int64)
        place_N = positive_N * BUCKETS + buckets(logits(rows.said_N))
        counts_2H: Floats = np.bincount(place_N, rows.weight_N, 2 * BUCKETS).astype(np.float64)
        return counts_2H.reshape(2, BUCKETS)

    def value(self, sums_K: Floats) -> float | None:
        return histogram_auc(sums_K)

    def over(self, rows: Judged) -> float | None:
        return self._exact.over(replace(rows, group_N=np.zeros(len(rows), np.int64)))
