"""Candidates: which items a user or a query could be shown, and in what order without any model.

The order is that of a co-visitation kNN, leaning to the categories the user is in and filled with what
is popular: a strong baseline. Its score goes into the model as a prior, so that a young model ranks no
worse than its own candidates.

Legend: U users (or queries), C candidates, H history, N or B pairs of a user row and an item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_mtl.config import Config
from stream_mtl.searches import Found, Searches, Sought
from stream_mtl.shop import Shop
from stream_mtl.shop.catalogue import BOUGHT, DEMAND, SLOW, normalised
from stream_mtl.shop.columns import Array, Ints
from stream_mtl.shop.neighbours import Neighbours
from stream_mtl.two_tower import TwoTower

QUERY_LASTS_MS = 30 * 60_000  # a query is in a user's mind this long
LAST = 10  # newest history entries whose neighbours count
BACK = 0.8  # an entry counts this much less than the one after it
CATEGORIES = 4  # distinct newest categories whose popular items are candidates
RISING = 20
TITLES = 5  # newest items whose mean title is looked up in the whole catalogue
NEAREST = 100  # text neighbours
CLOSE = 0.3  # cosine from which a text neighbour says something
# weights of the prior, as log-odds
COVISITED, FOLLOWED, ANSWERED, POPULAR, CATEGORY, OWN, TITLED = 3.0, 1.0, 3.0, 0.3, 2.0, 1.0, 6.0
LAST_CATEGORY, PRICED = 2.0, 2.0
PRICE_WIDTH = 0.4  # difference of log prices at which two items are alike to 1 / e
SOURCES = (
    "covisited",
    "answers",
    "follows",
    "recent",
    "popular",
    "rising",
    "category",
    "titles",
    "learned",
)
CENTRE, SCALE = 2.0, 2.0  # bring the prior to about [-2, 2]


@dataclass(frozen=True, slots=True)
class Candidates:
    """item_UC: slots, -1 padded at the end, best first; prior_UC: the score of that order."""

    item_UC: Array  # int32
    prior_UC: Array  # float32
    named_UC: Array  # uint16, a bit for each of SOURCES that named the item
    view: Viewpoint  # what they were chosen from


@dataclass(frozen=True, slots=True)
class Links:
    """Faded link strengths from a user's history to items, as a sorted table of (row, item) keys."""

    key_K: Ints  # row * stride + item
    strength_K: Array
    stride: int

    def to(self, row_B: Ints, item_B: Array) -> Array:
        """Total over the history, 0 without a link."""
        if not len(self.key_K):
            return np.zeros(len(row_B))
        key_B = row_B * self.stride + item_B
        if len(key_B) > len(self.key_K) and bool((key_B[1:] > key_B[:-1]).all()):
            found_M, place_M = _found(self.key_K, key_B)  # the few are looked up among the many
            total_B = np.zeros(len(key_B))
            total_B[place_M] = self.strength_K[found_M]
            return total_B
        place_B = np.minimum(np.searchsorted(self.key_K, key_B), len(self.key_K) - 1)
        return np.where(self.key_K[place_B] == key_B, self.strength_K[place_B], 0.0)

    def totals(self, rows: int) -> Array:
        """Sum over all items, a row [rows]."""
        return np.bincount(self.key_K // self.stride, self.strength_K, rows)

    def pairs(self) -> tuple[Ints, Ints]:
        return self.key_K // self.stride, self.key_K % self.stride


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """What is read once about U users and then used for every item: stands in for them as of now."""

    user_U: Ints  # -1 = stranger
    query_U: Ints  # slot, -1 = none
    domain_U: Ints
    history_UH: Array  # int32 slots, newest first, -1 padded
    near_UH: Array  # float64, weight of each entry; a row sums to 1 or is all zero
    category_UH: Array  # int32, -1 where there is no entry or no category
    price_UL: Array  # float32 log prices of the newest entries, NaN where there is none
    own: Links  # items of the history, the newer the stronger
    rebuys: Links  # what was bought, the more often and the newer the stronger; empty where that says nothing
    covisits: Links
    follows: Links  # what came after the newest item
    answers: Links  # what was clicked after the query
    categories: Links  # weight of each category in the history: keys hold categories, not items
    tastes: tuple[Array, Array, Array]  # unit title vectors [U, E]: last item, mean of five, of all
    sought_UE: Array  # unit vector of the query where there is one, else of the mean of five


class Retrieval:
    """Reads the shop, and the learned vectors where there are any; keeps nothing of its own but what searches keep."""

    def __init__(
        self,
        shop: Shop,
        config: Config,
        towers: TwoTower | None = None,
        searches: Searches | None = None,
    ) -> None:
        self.shop, self.towers = shop, towers
        self.limit, self._settings = config.scoring.candidates, config.retrieval
        self._searches = searches or Searches(config)
        shop.items.on_titles = self._searches.titles.moved
        if towers is not None:
            towers.on_vectors = self._searches.learned.moved

    def for_users(self, user_U: Ints, domain_U: Ints | None = None) -> Candidates:
        """At most `limit` items a user; -1 stands for a stranger, who gets what is popular.

        `domain_U`: domain codes to use in place of that of the user's last event.
        """
        return self.choose(self.view(user_U, domain_U=domain_U))

    def for_queries(self, query_Q: Ints) -> Candidates:
        """Clicked after the query, near to its text, popular where it was asked."""
        return self.choose(self.view(np.full(len(query_Q), -1, np.int64), query_Q))

    def popular(self, domain: str, n: int) -> tuple[Ints, Array]:
        """The n most wanted items of a domain ("" = of the shop), and how wanted: decayed counts."""
        shop = self.shop
        code = shop.items.domains.index.get(domain, 0)
        slot_N = shop.items.popular.of(np.array([code]))[0, :n].astype(np.int64)
        slot_N = slot_N[slot_N >= 0]
        return slot_N, self.demand(slot_N)

    def view(
        self, user_U: Ints, query_U: Ints | None = None, domain_U: Ints | None = None
    ) -> Viewpoint:
        """Read what is needed of users; a query not given is the one the user has in mind."""
        shop, c, known_U = self.shop, self.shop.users.columns, user_U >= 0
        if query_U is None:
            recent_U = known_U & (shop.now_ms - c.query_ms[user_U] <= QUERY_LASTS_MS)
            query_U = np.where(recent_U, c.query[user_U], -1).astype(np.int64)
        if domain_U is None:
            asked_U = np.where(query_U >= 0, shop.queries.columns.domain[query_U], 0)
            domain_U = np.where(known_U, c.domain[user_U], asked_U).astype(np.int64)
        history_UH = np.where(known_U[:, None], c.item[user_U], -1)
        there_UH = history_UH >= 0
        near_UH = np.where(there_UH, BACK ** np.arange(history_UH.shape[1]), 0.0)
        near_UH /= np.maximum(near_UH.sum(1, keepdims=True), 1e-9)
        category_UH = np.where(there_UH, shop.items.columns.category[history_UH], 0)
        category_UH = np.where(category_UH > 0, category_UH, -1)
        price_UL = np.where(there_UH, shop.items.columns.log_price[history_UH], np.nan)[:, :LAST]
        age_H = 1 / (1 + np.arange(history_UH.shape[1]) / 5)
        bought_UH = there_UH & (c.kind[user_U] == BOUGHT) & (self._settings.rebuy > 0)
        tastes = self._tastes(history_UH)
        query_UE = shop.queries.columns.unit[query_U] * (query_U >= 0)[:, None]
        return Viewpoint(
            user_U,
            query_U,
            domain_U,
            history_UH,
            near_UH,
            category_UH,
            price_UL,
            _table(history_UH, age_H, shop.items.used, True),
            _table(np.where(bought_UH, history_UH, -1), age_H, shop.items.used),
            self._links(shop.items.covisits, history_UH[:, :LAST], BACK),
            self._links(shop.items.transitions, history_UH[:, :1], 1.0),
            self._links(shop.queries.clicked, query_U[:, None], 1.0),
            _table(category_UH, near_UH, len(shop.items.categories)),
            tastes,
            np.where(query_UE.any(1, keepdims=True), query_UE, tastes[1]),
        )

    def choose(self, view: Viewpoint) -> Candidates:
        """Union of the sources, less what may not be shown, ordered by prior and cut to the limit."""
        items = self.shop.items
        titles = self._of_titles(view)
        named = {
            "covisited": view.covisits.pairs(),
            "answers": view.answers.pairs(),
            "follows": view.follows.pairs(),
            "recent": _pairs(view.history_UH),
            "popular": _pairs(items.popular.of(view.domain_U)),
            "rising": _pairs(items.rising.of(view.domain_U)[:, :RISING]),
            "category": self._of_categories(view.category_UH[:, :LAST]),
            "titles": (titles.row_K, titles.item_K),
            "learned": self._of_vectors(view),
        }
        stride = max(items.used, 1)
        key_N = _distinct(np.concatenate([row * stride + item for row, item in named.values()]))
        row_N, item_N = np.divmod(key_N, stride)
        named_N = np.zeros(len(key_N), np.uint16)
        for bit, source in enumerate(SOURCES):
            row_M, item_M = named[source]
            named_N[np.searchsorted(key_N, row_M * stride + item_M)] |= np.uint16(1 << bit)
        keep_N = items.columns.offered[item_N]
        keep_N[_found(self._just_had(view, stride), key_N)[1]] = False
        row_N, item_N, named_N = row_N[keep_N], item_N[keep_N], named_N[keep_N]
        cosine_N = titles.cosine(row_N, item_N) if self.shop.text_dim else None
        prior_N = self.prior(view, row_N, item_N, cosine_N)
        item_UC, prior_UC, named_UC = _best(
            row_N, item_N, prior_N, named_N, (len(view.user_U), self.limit)
        )
        return Candidates(item_UC, prior_UC, named_UC, view)

    def prior(
        self, view: Viewpoint, row_B: Ints, item_B: Ints, cosine_B: Array | None = None
    ) -> Array:
        """The candidates' own order as one score (float32 [B]); item -1 = not known.

        `cosine_B`: of what each user seeks and the title, where the shop has text.
        """
        known_B, safe_B = item_B >= 0, np.maximum(item_B, 0)
        score_B = (
            COVISITED * np.log1p(view.covisits.to(row_B, safe_B))
            + ANSWERED * np.log1p(view.answers.to(row_B, safe_B))
            + FOLLOWED * np.log1p(view.follows.to(row_B, safe_B))
            + POPULAR * np.log1p(self.demand(safe_B))
            + CATEGORY * self.category_share(view, row_B, safe_B)
            + OWN * view.own.to(row_B, safe_B)
            + self._settings.rebuy * view.rebuys.to(row_B, safe_B)
            + self._likeness(view, row_B, safe_B)
        )
        if cosine_B is not None:
            score_B += TITLED * np.maximum(cosine_B - CLOSE, 0.0)
        return np.asarray((score_B * known_B - CENTRE) / SCALE, np.float32)

    def _likeness(self, view: Viewpoint, row_B: Ints, item_B: Ints) -> Array:
        """Of the newest item's category; and how near in price to what of its category was looked at lately."""
        columns = self.shop.items.columns
        category_B = columns.category.take(item_B)
        pair_N, back_N = np.nonzero(
            view.category_UH[:, :LAST].take(row_B, 0) == category_B[:, None]
        )
        row_N = row_B[pair_N]
        apart_N = np.abs(columns.log_price.take(item_B[pair_N]) - view.price_UL[row_N, back_N])
        alike_N = np.nan_to_num(np.exp(-apart_N / PRICE_WIDTH)) * view.near_UH[row_N, back_N]
        same_N = LAST_CATEGORY * (back_N == 0) + PRICED * alike_N
        return np.bincount(pair_N, same_N, len(item_B))

    # ---- also read by the features

    def demand(self, item_B: Ints) -> Array:
        """Slowly decayed wantedness now (float64 [B])."""
        count_BK = self.shop.items.columns.count[item_B, :, SLOW]
        now = float(self.shop.fadings[SLOW].at(self.shop.now_ms))
        return np.asarray(np.maximum(count_BK @ DEMAND, 0.0) * now)

    def category_share(self, view: Viewpoint, row_B: Ints, item_B: Ints) -> Array:
        """Recency-weighted share of the history in the item's category."""
        return view.categories.to(row_B, self.shop.items.columns.category[item_B])

    def linked(self, table: Neighbours, from_U: Array, row_B: Ints, item_B: Ints) -> Array:
        """Faded strength of the link from one row a user (-1 = none) to an item."""
        links = self._links(table, from_U[:, None], 1.0)
        return links.to(row_B, np.maximum(item_B, 0)) * (item_B >= 0)

    # ---- sources

    def _tastes(self, history_UH: Array) -> tuple[Array, Array, Array]:
        unit = self.shop.items.columns.unit
        if not self.shop.text_dim:
            nothing = np.zeros((len(history_UH), 0), np.float32)
            return nothing, nothing, nothing
        unit_UHE = unit.take(history_UH, 0)
        unit_UHE[history_UH < 0] = 0
        last, five, all_ = (
            normalised(unit_UHE[:, :n].sum(1)) for n in (1, TITLES, unit_UHE.shape[1])
        )
        return last, five, all_

    def _links(self, table: Neighbours, from_UL: Array, back: float) -> Links:
        """Links from several rows a user, each counting `back` times the one before it."""
        now = float(self.shop.link_fading.at(self.shop.now_ms))
        to_ULW = table.slot.take(from_UL, 0)
        weight_ULW = (
            table.weight.take(from_UL, 0) * (now * back ** np.arange(from_UL.shape[1]))[:, None]
        )
        valid = np.nonzero((to_ULW >= 0) & (from_UL >= 0)[:, :, None])
        stride = max(self.shop.items.used, 1)
        key_N = valid[0] * stride + to_ULW[valid]
        if from_UL.shape[1] == 1:  # links of one row lead to distinct items
            order = np.argsort(key_N)
            return Links(key_N[order], weight_ULW[valid][order], stride)
        key_K, inverse_N = np.unique(key_N, return_inverse=True)
        return Links(key_K, np.bincount(inverse_N, weight_ULW[valid], len(key_K)), stride)

    def _of_categories(self, category_UL: Array) -> tuple[Ints, Ints]:
        """Popular in the newest distinct categories."""
        new_UL = category_UL > 0
        for back in range(1, category_UL.shape[1]):
            new_UL[:, back] &= (category_UL[:, :back] != category_UL[:, back : back + 1]).all(1)
        row_G, back_G = np.nonzero(new_UL & (new_UL.cumsum(1) <= CATEGORIES))
        listed_GW = self.shop.items.of_category.of(category_UL[row_G, back_G].astype(np.int64))
        group_N, item_N = _pairs(listed_GW)
        return row_G[group_N], item_N

    def _of_titles(self, view: Viewpoint) -> Found:
        """Titles nearest to what each user seeks; without text nothing."""
        columns, used = self.shop.items.columns, self.shop.items.used
        return self._searches.titles.find(
            Sought(view.sought_UE, columns.unit[:used], columns.offered[:used], NEAREST, CLOSE)
        )

    def _of_vectors(self, view: Viewpoint) -> tuple[Ints, Ints]:
        """Nearest to where each user is, by learned vectors, in the user's domain."""
        towers, columns, used = self.towers, self.shop.items.columns, self.shop.items.used
        known = np.flatnonzero(view.history_UH[:, 0] >= 0)
        if towers is None or not towers.ready or not len(known):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        found = self._searches.learned.find(
            Sought(
                towers.users(view.history_UH[known]),
                towers.items(),
                columns.offered[:used],
                self._settings.candidates,
                0.0,
                view.domain_U[known].astype(np.int32),
                columns.domain[:used],
            )
        )
        return known[found.row_K], found.item_K

    def _just_had(self, view: Viewpoint, stride: int) -> Ints:
        """Keys of the items being looked at now, and of what was bought and rests."""
        c, rest_ms = self.shop.users.columns, self._settings.rest_ms
        had_UH = c.kind[view.user_U] == BOUGHT
        had_UH &= c.time[view.user_U] > self.shop.now_ms - rest_ms
        had_UH[:, 0] = True
        row, item = _pairs(np.where(had_UH, view.history_UH, -1))
        return row * stride + item


def _table(value_UH: Array, weight_H: Array, stride: int, first: bool = False) -> Links:
    """Sum of weights of each value of a row (-1 = none), or the weight where it stands first."""
    row_N, back_N = np.nonzero(value_UH >= 0)
    weight_N = np.broadcast_to(weight_H, value_UH.shape)[row_N, back_N]
    stride = max(stride, 1)
    key_N = row_N * stride + value_UH[row_N, back_N]
    if first:
        key_K, first_K = np.unique(key_N, return_index=True)
        return Links(key_K, weight_N[first_K], stride)
    key_K, inverse_N = np.unique(key_N, return_inverse=True)
    return Links(key_K, np.bincount(inverse_N, weight_N, len(key_K)), stride)


def _found(key_K: Ints, key_N: Ints) -> tuple[Ints, Ints]:
    """Which of K keys stand among N, which are sorted and not none, and where."""
    place_K = np.minimum(np.searchsorted(key_N, key_K), len(key_N) - 1)
    found_M = np.flatnonzero(key_N[place_K] == key_K)
    return found_M, place_K[found_M]


def _distinct(key_N: Ints) -> Ints:
    """Sorted and each once. Much of it stands in sorted runs, which a stable sort merges cheaply."""
    key_N = np.sort(key_N, kind="stable")
    new_N = np.ones(len(key_N), bool)
    new_N[1:] = key_N[1:] != key_N[:-1]
    return key_N[new_N]


def _best(
    row_N: Ints, item_N: Ints, prior_N: Array, named_N: Array, shape: tuple[int, int]
) -> tuple[Array, Array, Array]:
    """Items of highest prior, that prior and their sources, `shape` [U, C]; N is sorted by (row, item)."""
    users, limit = shape
    count_U = np.bincount(row_N, minlength=users)
    start_U = count_U.cumsum() - count_U
    place_N = np.arange(len(row_N)) - start_U[row_N]
    prior_UW = np.full((users, int(count_U.max(initial=limit))), -np.inf, np.float32)
    prior_UW[row_N, place_N] = prior_N
    # stable: of equal priors the lower slot comes first
    order_UC = np.argsort(-prior_UW, axis=1, kind="stable")[:, :limit]
    there_UC = order_UC < count_U[:, None]
    from_UC = np.where(there_UC, start_U[:, None] + order_UC, len(row_N))  # padding: the last
    return (
        np.append(item_N, -1).astype(np.int32)[from_UC],
        np.append(prior_N, np.float32(0))[from_UC],
        np.append(named_N, np.uint16(0))[from_UC],
    )


def _pairs(item_UN: Array) -> tuple[Ints, Ints]:
    """(row, item) of every place that is not padding."""
    row, place = np.nonzero(item_UN >= 0)
    return row, item_UN[row, place].astype(np.int64)
