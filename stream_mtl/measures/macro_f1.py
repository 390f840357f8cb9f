"""Mean of the classes' F1: a rare class counts as much as a frequent one."""

from __future__ import annotations

from stream_mtl.measures.base import Floats, Judged
from stream_mtl.measures.classes import class_counts, f1_scores


class MacroF1:
    """Sums: C x 3, see `classes`. The mean runs over classes that were said or occurred."""

    def sums(self, rows: Judged) -> Floats:
        return class_counts(rows)

    def value(self, sums_K: Floats) -> float | None:
        f1_C = f1_scores(sums_K)
        return float(f1_C.mean()) if len(f1_C) else None

    def over(self, rows: Judged) -> float | None:
        return self.value(self.sums(rows))
