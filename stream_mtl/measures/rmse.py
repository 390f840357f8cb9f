"""Root of the mean squared error of a task whose labels are numbers."""

from __future__ import annotations

import numpy as np

from stream_mtl.measures.base import Floats, Judged


class Rmse:
    """Sums: weight, squared error."""

    def sums(self, rows: Judged) -> Floats:
        return np.array(
            [rows.weight_N.sum(), rows.weight_N @ np.square(rows.said_N - rows.label_N)]
        )

    def value(self, sums_K: Floats) -> float | None:
        weight, squares = sums_K
        return float(np.sqrt(squares / weight)) if weight else None

    def over(self, rows: Judged) -> float | None:
        return self.value(self.sums(rows))
