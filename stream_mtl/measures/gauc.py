"""Grouped AUC: the mean of the users' AUCs, weighted by their rows (Zhou et al., KDD 2018).

It asks whether each user's rows are in the right order and nothing of the order between users, which no
list shows. Users with one class only are left out.
"""

from __future__ import annotations

import numpy as np

from stream_mtl.measures.base import Floats, Judged


class Gauc:
    """Sums: Σ n_u AUC_u, Σ n_u over users u with both classes.

    The sums of two sets of rows add up only where no user is in both: a user whose rows come in several
    calls counts as several, each with the order inside a call. A window takes its rows together.
    """

    def sums(self, rows: Judged) -> Floats:
        if not len(rows):
            return np.zeros(2)
        order_N = np.lexsort((rows.said_N, rows.group_N))
        group_N, said_N = rows.group_N[order_N], rows.said_N[order_N]
        weight_N, positive_N = rows.weight_N[order_N], rows.label_N[order_N] > 0.5
        new_user_N = np.concatenate(([True], group_N[1:] != group_N[:-1]))
        new_score_N = new_user_N | np.concatenate(([True], said_N[1:] != said_N[:-1]))
        user_N, score_N = np.cumsum(new_user_N) - 1, np.cumsum(new_score_N) - 1
        negative_S = np.bincount(score_N, weight_N * ~positive_N)  # a user's rows of one score
        positive_S = np.bincount(score_N, weight_N * positive_N)
        user_S = user_N[new_score_N]
        negative_U, positive_U = np.bincount(user_S, negative_S), np.bincount(user_S, positive_S)
        before_U = np.cumsum(negative_U) - negative_U  # of the users before
        below_S = np.cumsum(negative_S) - 0.5 * negative_S - before_U[user_S]
        right_U = np.bincount(user_S, positive_S * below_S)
        both_U = (negative_U > 0) & (positive_U > 0)
        rows_U = (negative_U + positive_U)[both_U]
        auc_U = right_U[both_U] / (negative_U * positive_U)[both_U]
        return np.array([rows_U @ auc_U, rows_U.sum()])

    def value(self, sums_K: Floats) -> float | None:
        total, rows = sums_K
        return float(total / rows) if rows else None

    def over(self, rows: Judged) -> float | None:
        return self.value(self.sums(rows))
