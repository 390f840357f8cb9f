"""Relative information gain: 1 - normalised entropy, so that 0 is the base rate and more is better."""

from __future__ import annotations

from stream_mtl.measures.base import Floats, Judged
from stream_mtl.measures.normalized_entropy import NormalizedEntropy


class Rig:
    """Sums: those of normalised entropy."""

    def __init__(self) -> None:
        self._entropy = NormalizedEntropy()

    def sums(self, rows: Judged) -> Floats:
        return self._entropy.sums(rows)

    def value(self, sums_K: Floats) -> float | None:
        entropy = self._entropy.value(sums_K)
        return None if entropy is None else 1 - entropy

    def over(self, rows: Judged) -> float | None:
        return self.value(self.sums(rows))
