"""How often each class was said and right: what accuracy and F1 follow from.

Legend: C classes. The labels may grow: C is one more than the highest class seen, and sums of
different heights are added as if the shorter had zeros for the rest.
"""

from __future__ import annotations

import numpy as np

from stream_mtl.measures.base import Floats, Judged


def class_counts(rows: Judged) -> Floats:
    """C x 3: right, said, actual. Classes are numbered from 0."""
    said_N, label_N = rows.said_N.astype(np.int64), rows.label_N.astype(np.int64)
    classes = int(max(said_N.max(initial=-1), label_N.max(initial=-1))) + 1
    right_N = np.where(said_N == label_N, rows.weight_N, 0.0)
    counts = (
        np.bincount(label_N, right_N, classes),
        np.bincount(said_N, rows.weight_N, classes),
        np.bincount(label_N, rows.weight_N, classes),
    )
    return np.stack(counts, 1)


def f1_scores(counts_C3: Floats) -> Floats:
    """F1 of each class that was said or occurred, in order: 2 right / (said + actual)."""
    right_C, said_C, actual_C = counts_C3.T
    seen_C = said_C + actual_C > 0
    return np.asarray(2 * right_C[seen_C] / (said_C + actual_C)[seen_C])
