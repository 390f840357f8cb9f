"""Cross-entropy of a binary task, in nats a row."""

from __future__ import annotations

import numpy as np

from stream_mtl.measures.base import Floats, Judged

LEAST = 1e-7  # of a probability, as in `prequential.logits`: one certain mistake costs 16 nats


def losses(rows: Judged) -> Floats:
    """Of every row."""
    said_N = np.clip(rows.said_N, LEAST, 1 - LEAST)
    return np.asarray(-np.log(np.where(rows.label_N > 0.5, said_N, 1 - said_N)))


class LogLoss:
    """Sums: weight, weighted loss."""

    def sums(self, rows: Judged) -> Floats:
        return np.array([rows.weight_N.sum(), rows.weight_N @ losses(rows)])

    def value(self, sums_K: Floats) -> float | None:
        weight, loss = sums_K
        return float(loss / weight) if weight else None

    def over(self, rows: Judged) -> float | None:
        return self.value(self.sums(rows))
