"""Normalised entropy (He et al., ADKDD 2014): log loss over that of always saying the base rate.

1 is as good as knowing the rate alone, less is better. Unlike log loss it compares tasks of different rates.
The base rate is that of the very rows that are judged.
"""

from __future__ import annotations

import numpy as np

from stream_mtl.measures.base import Floats, Judged
from stream_mtl.measures.log_loss import losses
from stream_mtl.prequential import normalized_entropy


class NormalizedEntropy:
    """Sums: weight, positives, loss."""

    def sums(self, rows: Judged) -> Floats:
        weight_N = rows.weight_N
        positives = weight_N @ (rows.label_N > 0.5)
        return np.array([weight_N.sum(), positives, weight_N @ losses(rows)])

    def value(self, sums_K: Floats) -> float | None:
        labels, positives, loss = sums_K.tolist()
        return normalized_entropy(labels, positives, loss)

    def over(self, rows: Judged) -> float | None:
        return self.value(self.sums(rows))
