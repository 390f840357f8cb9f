"""Candidates: which items a user or a query could be shown, and in what order without any model.

The order is that of a co-visitation kNN filled with what is popular, a strong baseline; its score goes
into the model as a prior, so that a young model ranks no worse than its own candidates.

Legend: U users (or queries), C candidates, B pairs of a user row and an item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_mtl.config import Config
from stream_mtl.shop import Shop
from stream_mtl.shop.catalogue import BOUGHT, DEMAND, SLOW, normalised
from stream_mtl.shop.columns import Array, Ints

DAY_MS = 86_400_000
LAST = 10  # newest history entries whose neighbours count
BACK = 0.8  # an entry counts this much less than the one after it
TITLES = 5  # newest items whose mean title is looked up in the whole catalogue
NEAREST = 60


@dataclass(frozen=True, slots=True)
class Candidates:
    """item_UC: slots, -1 padded at the end, best first; prior_UC: the score of that order."""

    item_UC: Array  # int32
    prior_UC: Array  # float32
    sources: dict[str, int]  # how many of the candidates each source had named


@dataclass(frozen=True, slots=True)
class Links:
    """Faded link strengths from a user's history to items, as a sorted table of (row, item) keys."""

    key_K: Ints  # row * stride + item
    covisit_K: Array
    stride: int

    def covisits(self, row_B: Ints, item_B: Array) -> Array:
        """Total over the history, 0 without a link."""
        if not len(self.key_K):
            return np.zeros(len(row_B))
        key_B = row_B * self.stride + item_B
        place_B = np.minimum(np.searchsorted(self.key_K, key_B), len(self.key_K) - 1)
        return np.where(self.key_K[place_B] == key_B, self.covisit_K[place_B], 0.0)


class Retrieval:
    """Reads the shop; keeps nothing of its own."""

    def __init__(self, shop: Shop, config: Config) -> None:
        self.shop = shop
        self.limit = config.scoring.candidates

    # ---- users

    def for_users(self, user_U: Ints, domain_U: Array | None = None) -> Candidates:
        """At most `limit` items a user; -1 stands for a stranger, who gets what is popular.

        `domain_U`: domain codes to use in place of that of the user's last event.
        """
        shop = self.shop
        if domain_U is None:
            domain_U = np.where(user_U >= 0, shop.users.columns.domain[user_U], 0)
        links = self.links(user_U)
        history_UH = self.history(user_U)
        named = {
            "covisited": (links.key_K // max(links.stride, 1), links.key_K % max(links.stride, 1)),
            "recent": _pairs(history_UH),
            "popular": _pairs(shop.items.popular.of(domain_U.astype(np.int64))[:, :50]),
            "rising": _pairs(shop.items.rising.of(domain_U.astype(np.int64))[:, :20]),
            "category": self._of_last_category(history_UH),
        }
        return self._choose(user_U, named, links)

    def history(self, user_U: Ints) -> Array:
        """int32 [U, H] item slots, newest first; all -1 for a stranger."""
        return np.where((user_U >= 0)[:, None], self.shop.users.columns.item[user_U], -1)

    def links(self, user_U: Ints) -> Links:
        """Co-visitation of the last entries, each counting `BACK` times the next."""
        shop, covisits = self.shop, self.shop.items.covisits
        from_UL = self.history(user_U)[:, :LAST]
        fade = shop.link_fading.at(shop.now_ms) * BACK ** np.arange(from_UL.shape[1])
        to_ULW = covisits.slot[from_UL]
        weight_ULW = covisits.weight[from_UL] * fade[:, None]
        row_N, back_N, _ = valid = np.nonzero((to_ULW >= 0) & (from_UL >= 0)[:, :, None])
        stride = max(shop.items.used, 1)
        key_K, inverse_N = np.unique(row_N * stride + to_ULW[valid], return_inverse=True)
        return Links(key_K, np.bincount(inverse_N, weight_ULW[valid], len(key_K)), stride)

    def prior(self, row_B: Ints, item_B: Array, links: Links) -> Array:
        """The candidates' own order as one score (float32 [B])."""
        shop = self.shop
        demand_B = shop.items.columns.count[item_B, :, SLOW] @ DEMAND * shop.fadings[SLOW].at(shop.now_ms)
        score_B = 3 * np.log1p(links.covisits(row_B, item_B)) + 0.3 * np.log1p(demand_B)
        return score_B.astype(np.float32)

    def tastes(self, user_U: Ints) -> tuple[Array, Array, Array]:
        """Unit title vectors [U, E] of the last item, of the mean of five, of the whole history."""
        unit, history_UH = self.shop.items.columns.unit, self.history(user_U)
        means = []
        for depth in (1, TITLES, history_UH.shape[1]):
            item_UN = history_UH[:, :depth]
            means.append(normalised((unit[item_UN] * (item_UN >= 0)[:, :, None]).sum(1)))
        return means[0], means[1], means[2]

    def _of_last_category(self, history_UH: Array) -> tuple[Ints, Ints]:
        items = self.shop.items
        last_U = history_UH[:, 0]
        category_U = np.where(last_U >= 0, items.columns.category[last_U], 0).astype(np.int64)
        listed = items.of_category.of(category_U)[:, :30]
        return _pairs(np.where((category_U > 0)[:, None], listed, -1))

    def _choose(self, user_U: Ints, named: dict[str, tuple[Ints, Ints]], links: Links) -> Candidates:
        """Union of the sources, less what may not be shown, ordered by prior and cut to the limit."""
        shop = self.shop
        stride = max(shop.items.used, 1)
        key_N = np.unique(np.concatenate([row * stride + item for row, item in named.values()]))
        row_N, item_N = key_N // stride, key_N % stride
        keep_N = shop.items.columns.offered[item_N] & ~self._just_had(user_U[row_N], item_N)
        row_N, item_N = row_N[keep_N], item_N[keep_N]
        prior_N = self.prior(row_N, item_N, links)
        order_N = np.lexsort((item_N, -prior_N, row_N))
        row_N, item_N, prior_N = row_N[order_N], item_N[order_N], prior_N[order_N]
        place_N = np.arange(len(row_N)) - np.searchsorted(row_N, row_N)
        kept = place_N < self.limit
        item_UC = np.full((len(user_U), self.limit), -1, np.int32)
        prior_UC = np.zeros((len(user_U), self.limit), np.float32)
        item_UC[row_N[kept], place_N[kept]] = item_N[kept]
        prior_UC[row_N[kept], place_N[kept]] = prior_N[kept]
        return Candidates(item_UC, prior_UC, {name: len(row) for name, (row, _) in named.items()})

    def _just_had(self, user_N: Ints, item_N: Array) -> Array:
        """The item being looked at now, and what was bought within a day."""
        c, shop = self.shop.users.columns, self.shop
        same_NH = c.item[user_N] == item_N[:, None]
        had_NH = (c.kind[user_N] == BOUGHT) & (c.time[user_N] > shop.now_ms - DAY_MS)
        had_NH[:, 0] = True
        return (same_NH & had_NH).any(1) & (user_N >= 0)


def _pairs(item_UN: Array) -> tuple[Ints, Ints]:
    """(row, item) of every place that is not padding."""
    row, place = np.nonzero(item_UN >= 0)
    return row, item_UN[row, place].astype(np.int64)
