"""Sum of predictions over sum of labels: 1 is right on average, 1.1 says a tenth too much."""

from __future__ import annotations

import numpy as np

from stream_mtl.measures.base import Floats, Judged


class Calibration:
    """Sums: predicted, actual."""

    def sums(self, rows: Judged) -> Floats:
        return np.array([rows.weight_N @ rows.said_N, rows.weight_N @ rows.label_N])

    def value(self, sums_K: Floats) -> float | None:
        predicted, actual = sums_K
        return float(predicted / actual) if actual else None

    def over(self, rows: Judged) -> float | None:
        return self.value(self.sums(rows))
