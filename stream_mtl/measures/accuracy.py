"""Share of rows whose class was said."""

from __future__ import annotations

from stream_mtl.measures.base import Floats, Judged
from stream_mtl.measures.classes import class_counts


class Accuracy:
    """Sums: C x 3, see `classes`."""

    def sums(self, rows: Judged) -> Floats:
        return class_counts(rows)

    def value(self, sums_K: Floats) -> float | None:
        right, _, actual = sums_K.sum(0)
        return float(right / actual) if actual else None

    def over(self, rows: Judged) -> float | None:
        return self.value(self.sums(rows))
