"""Expected calibration error over 10 bins of equal mass (Nguyen and O'Connor, EMNLP 2015).

Bins of equal width would put nearly all rows of a rare event into the first one. Legend: H buckets.
"""

from __future__ import annotations

import numpy as np

from stream_mtl.measures.base import Floats, Judged
from stream_mtl.prequential import BUCKETS, buckets, logits

BINS = 10


class Ece:
    """Sums, 3 x H: weight, predicted and actual positives of each bucket of the logit.

    A window cuts its sorted rows into ten; the sums cut at whole buckets, dividing a bucket that two bins
    share: exact to the width of a bucket (0.016 in log-odds).
    """

    def sums(self, rows: Judged) -> Floats:
        bucket_N = buckets(logits(rows.said_N))
        columns = (rows.weight_N, rows.weight_N * rows.said_N, rows.weight_N * rows.label_N)
        return np.stack([np.bincount(bucket_N, column, BUCKETS) for column in columns])

    def value(self, sums_K: Floats) -> float | None:
        return _gap(*sums_K)

    def over(self, rows: Judged) -> float | None:
        order_N = np.argsort(rows.said_N, kind="stable")
        weight_N = rows.weight_N[order_N]
        return _gap(weight_N, weight_N * rows.said_N[order_N], weight_N * rows.label_N[order_N])


def _gap(weight_N: Floats, predicted_N: Floats, actual_N: Floats) -> float | None:
    """Σ over bins of |predicted - actual| over the whole weight; places ascend in the score."""
    total = weight_N.sum()
    if not total:
        return None
    edges = np.linspace(0, total, BINS + 1)
    reached_N = np.concatenate(([0.0], np.cumsum(weight_N)))
    over_N = np.concatenate(([0.0], np.cumsum(predicted_N - actual_N)))
    return float(np.abs(np.diff(np.interp(edges, reached_N, over_N))).sum() / total)
