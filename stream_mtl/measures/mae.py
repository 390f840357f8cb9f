"""Mean absolute error of a task whose labels are numbers."""

from __future__ import annotations

import numpy as np

from stream_mtl.measures.base import Floats, Judged


class Mae:
    """Sums: weight, absolute error."""

    def sums(self, rows: Judged) -> Floats:
        return np.array([rows.weight_N.sum(), rows.weight_N @ np.abs(rows.said_N - rows.label_N)])

    def value(self, sums_K: Floats) -> float | None:
        weight, errors = sums_K
        return float(errors / weight) if weight else None

    def over(self, rows: Judged) -> float | None:
        return self.value(self.sums(rows))
