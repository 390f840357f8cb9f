"""Prequential sums of a task whose label is no yes or no: one of several classes, or a number.

Legend: N rows whose label is known, W columns of what was served (probabilities of the classes, or the value alone).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stream_mtl.measures import MEASURES
from stream_mtl.measures.base import judged
from stream_mtl.measures.classes import class_counts
from stream_mtl.tasks.base import Spread

Floats = npt.NDArray[np.float64]

_LEAST = 1e-7  # probability that a class is taken to have had: a log loss must stay finite
ROWS, LOSS, ABSOLUTE, LABEL, SQUARE = range(5)  # of a number: LOSS is the squared error


class ValueSums:
    """`total_K` rows, losses and, of numbers, errors and labels; `count_C3` how often a class was right, said, actual."""

    def __init__(self, spread: Spread, width: int) -> None:
        self.classes = width if spread == "class_entropy" else 0
        self.total_K: Floats = np.zeros(5)
        self.count_C3: Floats = np.zeros((self.classes, 3))

    def add(self, said_NW: Floats, label_N: Floats) -> None:
        if self.classes:
            class_N = label_N.astype(np.int64).clip(0, self.classes - 1)
            prob_N = said_NW[np.arange(len(class_N)), class_N]
            self.total_K[:2] += len(class_N), -np.log(np.maximum(prob_N, _LEAST)).sum()
            counts = class_counts(judged(said_NW.argmax(1), class_N))
            self.count_C3[: len(counts)] += counts
            return
        error_N = said_NW[:, 0] - label_N
        sums = np.square(error_N), np.abs(error_N), label_N, np.square(label_N)
        self.total_K += [len(label_N), *(one.sum() for one in sums)]

    def merge(self, other: ValueSums, fading: float = 1.0) -> None:
        """Own sums, faded, plus the other's."""
        self.total_K = self.total_K * fading + other.total_K
        self.count_C3 = self.count_C3 * fading + other.count_C3

    def quality(self) -> dict[str, float | int | None]:
        """What there is to say; normalised entropy is the loss over that of knowing the labels' distribution alone."""
        told: dict[str, float | int | None] = {"labels": round(self.total_K[ROWS])}
        if not self.total_K[ROWS]:
            return told
        told["normalized_entropy"] = self._normalized()
        if self.classes:
            told["macro_f1"] = MEASURES["macro_f1"].value(self.count_C3)
            told["accuracy"] = MEASURES["accuracy"].value(self.count_C3)
        else:
            told["rmse"] = float(np.sqrt(self.total_K[LOSS] / self.total_K[ROWS]))
            told["mae"] = float(self.total_K[ABSOLUTE] / self.total_K[ROWS])
        return told

    def _normalized(self) -> float | None:
        mean_K = self.total_K / self.total_K[ROWS]
        if self.classes:
            share_C = self.count_C3[:, 2] / self.total_K[ROWS]
            share_C = share_C[share_C > 0]
            spread = float(-(share_C * np.log(share_C)).sum())
        else:
            spread = float(mean_K[SQUARE] - mean_K[LABEL] ** 2)
        return float(mean_K[LOSS] / spread) if spread > 1e-12 else None

    def state(self) -> list[Any]:
        return [self.total_K.tolist(), self.count_C3.tolist()]

    def restore(self, state: list[Any]) -> None:
        self.total_K = np.array(state[0])
        self.count_C3 = np.array(state[1]).reshape(self.classes, 3)
