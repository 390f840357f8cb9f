"""A measure whose rows fade: S_i = fading S_(i-1) + s_i, row by row (Gama et al., Machine Learning 2013)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from stream_mtl.measures.base import Floats, Judged, Measure


class Fading:
    """Constant memory. Row by row, so the value does not depend on how rows are dealt out to calls.

    (Users and lists that two calls cut apart are the exception: see `gauc` and `ndcg`.) `fading` 1
    forgets nothing; 0.999 remembers about a thousand rows.
    """

    def __init__(self, measure: Measure, fading: float) -> None:
        self._measure, self._fading = measure, fading
        self._sums_K: Floats | None = None

    def add(self, rows: Judged) -> None:
        if not len(rows):
            return
        age_N = np.arange(len(rows) - 1, -1, -1)
        new_K = self._measure.sums(replace(rows, weight_N=rows.weight_N * self._fading**age_N))
        if self._sums_K is not None:
            new_K = _added(self._sums_K * self._fading ** len(rows), new_K)
        self._sums_K = new_K

    def value(self) -> float | None:
        return None if self._sums_K is None else self._measure.value(self._sums_K)

    def state(self) -> dict[str, Any]:
        return {} if self._sums_K is None else {"sums": torch.from_numpy(self._sums_K)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._sums_K = state["sums"].numpy().copy() if "sums" in state else None


def _added(one_K: Floats, other_K: Floats) -> Floats:
    """The sum of two sums, the shorter one filled up with zeros: classes that it has not seen."""
    if len(one_K) < len(other_K):
        one_K, other_K = other_K, one_K
    one_K[: len(other_K)] += other_K
    return one_K
