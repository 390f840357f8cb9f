"""F1 of class 1 of a yes-or-no task."""

from __future__ import annotations

from stream_mtl.measures.base import Floats, Judged
from stream_mtl.measures.classes import class_counts


class F1:
    """Sums: C x 3, see `classes`. None until a 1 was said or occurred."""

    def sums(self, rows: Judged) -> Floats:
        return class_counts(rows)

    def value(self, sums_K: Floats) -> float | None:
        if len(sums_K) < 2:
            return None
        right, said, actual = sums_K[1]
        return float(2 * right / (said + actual)) if said + actual else None

    def over(self, rows: Judged) -> float | None:
        return self.value(self.sums(rows))
