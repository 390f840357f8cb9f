"""Prequential sums of one or several tasks, from which all metrics follow.

Legend: T tasks, N (row, task) pairs whose label is known, H buckets of the histogram.
Source of histogram AUC: two histograms over logit buckets, added to merge, multiplied to fade.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BUCKETS = 2048  # over logits in [-LIMIT, LIMIT]: 0.016 wide, so AUC is exact to about 1e-4
LIMIT = 16.0  # sigmoid(-16) = 1e-7; what lies beyond shares the outermost bucket
LABELS, POSITIVES, LOG_LOSS, PROBABILITY, NDCG, LISTS, GAUC, GROUPED = range(8)
NDCG_AT = 10


def log_loss(logit_N: Floats, positive_N: npt.NDArray[np.generic]) -> Floats:
    """In nats, of each row."""
    return np.asarray(np.logaddexp(0.0, np.where(positive_N, -logit_N, logit_N)))


def logits(probability: Floats) -> Floats:
    """Log-odds, finite also for 0 and 1."""
    clipped = np.clip(probability, 1e-7, 1 - 1e-7)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def buckets(logit_N: Floats) -> Ints:
    """The histogram's bucket of each logit."""
    bucket_N = ((logit_N + LIMIT) * (BUCKETS / (2 * LIMIT))).astype(np.int64)
    return np.clip(bucket_N, 0, BUCKETS - 1, out=bucket_N)


def histogram_auc(histogram_2H: Floats) -> float | None:
    """AUC from counts by label (0, 1) and bucket; pairs that share a bucket count half."""
    negative_H, positive_H = histogram_2H
    pairs = positive_H.sum() * negative_H.sum()
    if not pairs:
        return None
    below_H = np.cumsum(negative_H) - 0.5 * negative_H
    return float(positive_H @ below_H / pairs)


def entropy(rate: float) -> float:
    """Of a coin, in nats."""
    return float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def normalized_entropy(labels: float, positives: float, loss: float) -> float | None:
    """Mean log loss over the entropy of the base rate, from sums; None without both classes."""
    if not 0 < positives < labels:
        return None
    return float(loss / labels / entropy(positives / labels))


class Sums:
    """`total_TK`: columns LABELS … GROUPED; `histogram_T2H`: counts by label and served logit bucket;
    `calibration_T3H`: labels, probabilities and positives by bucket of the corrected logit."""

    NAMES = ("total_TK", "histogram_T2H", "calibration_T3H")

    def __init__(self, tasks: int) -> None:
        self.total_TK: Floats = np.zeros((tasks, 8))
        self.histogram_T2H: Floats = np.zeros((tasks, 2, BUCKETS))
        self.calibration_T3H: Floats = np.zeros((tasks, 3, BUCKETS))

    def add(self, task_N: Ints, logit_N: Floats, corrected_N: Floats, label_N: Floats) -> None:
        """Pairs of task index, served logit, logit on the scale of the sampled data, and 0/1 label."""
        positive_N = (label_N > 0.5).astype(np.int64)
        flat_N = (task_N * 2 + positive_N) * BUCKETS + buckets(logit_N)
        np.add.at(self.histogram_T2H.reshape(-1), flat_N, 1.0)
        loss_N = log_loss(corrected_N, positive_N)
        columns_N4 = np.stack(
            (np.ones_like(loss_N), positive_N, loss_N, 1.0 / (1.0 + np.exp(-corrected_N))), axis=1
        )
        np.add.at(self.total_TK[:, :NDCG], task_N, columns_N4)

    def merge(self, other: Sums, fading: float = 1.0) -> None:
        """Own sums, faded, plus the other's."""
        self.total_TK = self.total_TK * fading + other.total_TK
        self.histogram_T2H = self.histogram_T2H * fading + other.histogram_T2H
        self.calibration_T3H = self.calibration_T3H * fading + other.calibration_T3H

    def auc(self, task: int) -> float | None:
        return histogram_auc(self.histogram_T2H[task])

    def normalized_entropy(self, task: int) -> float | None:
        """Log loss over the entropy of the base rate: 1 is as good as knowing the rate alone."""
        return normalized_entropy(*self.total_TK[task, :PROBABILITY])

    def calibration(self, task: int) -> float | None:
        """Sum of predictions over sum of labels."""
        positives = self.total_TK[task, POSITIVES]
        return float(self.total_TK[task, PROBABILITY] / positives) if positives else None

    def ndcg(self, task: int) -> float | None:
        lists = self.total_TK[task, LISTS]
        return float(self.total_TK[task, NDCG] / lists) if lists else None


def ndcg(list_N: Ints, score_N: Floats, label_N: Floats, tie_N: Ints) -> tuple[float, int]:
    """Sum of NDCG@10 over lists, and their number."""
    ndcg_L, _ = list_ndcgs(list_N, score_N, label_N, tie_N)
    return float(ndcg_L.sum()), len(ndcg_L)


def list_ndcgs(
    list_N: Ints, score_N: Floats, label_N: Floats, tie_N: Ints, at: int = NDCG_AT
) -> tuple[Floats, Ints]:
    """NDCG of every list that has one, and where it ends; gain 2^label - 1, discount log2(1 + rank).

    `list_N` is ascending. Lists with one row or without a positive say nothing and are left out. Equal
    scores are ordered by `tie_N`: the order of the rows may tell the label.
    """
    if not len(list_N):
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    start_N = np.concatenate(([True], list_N[1:] != list_N[:-1]))
    index_N = np.cumsum(start_N) - 1
    first_N = np.flatnonzero(start_N)[index_N]
    rank_N = np.arange(len(list_N)) - first_N + 1
    discount_N = np.where(rank_N <= at, 1.0 / np.log2(1.0 + rank_N), 0.0)
    gain_N = np.exp2(label_N) - 1.0
    served = np.lexsort((tie_N, -score_N, index_N))
    ideal = np.lexsort((-gain_N, index_N))
    got_L = np.bincount(index_N, weights=gain_N[served] * discount_N)
    best_L = np.bincount(index_N, weights=gain_N[ideal] * discount_N)
    counted_L = (best_L > 0) & (np.bincount(index_N) > 1)
    last_L = np.append(np.flatnonzero(start_N)[1:] - 1, len(list_N) - 1)
    return got_L[counted_L] / best_L[counted_L], last_L[counted_L]
