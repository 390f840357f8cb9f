"""Exact: one product of a matrix with the whole catalogue. Nothing is kept, and nothing is missed."""

from __future__ import annotations

import numpy as np

from stream_mtl.nearest import nearest
from stream_mtl.searches.base import Found, Setup, Sought
from stream_mtl.shop.columns import Ints
from stream_mtl.state import Stateless


class Exact(Stateless):
    def __init__(self, setup: Setup) -> None:
        pass

    def moved(self, slot_K: Ints) -> None:
        pass

    def find(self, sought: Sought) -> Found:
        cosine_UN = sought.query_UD @ sought.vector_ND.T
        cosine_UN[:, ~sought.offered_N] = 0
        if sought.domain_U is not None and sought.domain_N is not None:
            np.putmask(cosine_UN, sought.domain_N != sought.domain_U[:, None], np.float32(0))
        row_K, item_K = nearest(cosine_UN, sought.n, sought.least)
        return Found(row_K, item_K, lambda row_N, item_N: cosine_UN[row_N, item_N])
