"""What the model is told of a (user, item) pair: hashed fields, and dense values squashed to about [-3, 3].

Everything is read from the shop as it is now, so whoever asks before an event is applied cannot see it.
Legend: U users (distinct), B rows, H history, F sparse fields, D dense fields. Slot -1 = not known.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from stream_mtl.hashing import mix64
from stream_mtl.retrieval import Retrieval, Viewpoint
from stream_mtl.shop import Shop, affinity
from stream_mtl.shop.catalogue import BOUGHT, CARTED, CLICKED, FAST, SLOW, STEADY
from stream_mtl.shop.columns import Array, Ints

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
SPARSE = ("user", "item", "category", "brand", "domain", "query", "device", "hour", "surface")
ITEM = (
    "price",
    "price_vs_category",
    "clicks",
    "carts",
    "purchases",
    "shown",
    "clicks_now",
    "demand",
    "demand_vs_top",
    "rising",
    "click_rate",
    "purchase_rate",
    "age",
    "unknown",
    "unclicked",
    "unpriced",
)
USER = (
    "user_clicks",
    "user_carts",
    "user_purchases",
    "user_shown",
    "user_click_rate",
    "history",
    "pause",
    "stranger",
)
PAIR = (
    "covisits",
    "covisits_last",
    "covisits_share",
    "covisits_lift",
    "follows_last",
    "follows_before",
    "own",
    "own_times",
    "own_recency",
    "own_carted",
    "own_bought",
    "own_pause",
    "seen",
    "category_last",
    "category_share",
    "brand_last",
    "brand_share",
    "domain_same",
    "price_vs_recent",
    "price_distance",
    "asked",
    "answers",
    "answers_share",
)
WORDS = (
    "words_liked",
    "words_best",
    "words_worst",
    "category_liked",
    "brand_liked",
    "words_crowd",
    "category_crowd",
    "brand_crowd",
    "words_last",
    "words_session",
    "category_session",
    "words_query",
)
TEXT = ("title_last", "title_recent", "title_taste", "title_query", "untitled")
DENSE = (*ITEM, *USER, *PAIR, *WORDS, *TEXT)
# of a list that is made now: what is the same in all its rows, and what is the same wherever an item stands
OF_READER = ("user", "domain", "query", "device", "hour", "surface", *USER, "asked")
OF_ITEM = ("item", "category", "brand", *(n for n in ITEM if n != "demand_vs_top"), "untitled")
SESSION, SESSION_MS = 5, 30 * MINUTE_MS  # newest items of this visit


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rows to describe: B rows that point into the U users of a view."""

    row_B: Ints  # index into the view
    item_B: Ints
    query_B: Ints
    time_B: Ints
    user_hash_B: Ints
    item_hash_B: Ints
    device_B: Ints  # code
    domain_B: Ints  # code
    surface_B: Ints  # hash, 0 = none

    def take(self, row_R: Ints) -> Pairs:
        """Some of the rows."""
        return Pairs(*(getattr(self, f.name)[row_R] for f in fields(self)))


def table_rows_of(hash_N: Ints, field: str, table_rows: int) -> Array:
    """int64 [N, F]: rows of the hashed table that stand for these values of one field, 0 in the other columns."""
    row_NF = np.zeros((len(hash_N), len(SPARSE)), np.int64)
    place = SPARSE.index(field)
    row_NF[:, place] = _placed(hash_N, place, table_rows)
    return row_NF


def _placed(hash_B: Ints, field: int | Ints, table_rows: int) -> Array:
    """Rows of the hashed table, [1, table_rows); a missing value (0) is row 0."""
    salted = hash_B + (np.asarray(field, np.int64) << 56)
    return np.where(hash_B != 0, mix64(salted) % (table_rows - 1) + 1, 0)


class Description:
    """Computes the features of pairs; stateless beside the shop."""

    def __init__(self, shop: Shop, retrieval: Retrieval, table_rows: int) -> None:
        self.shop, self.retrieval, self.table_rows = shop, retrieval, table_rows

    def sparse(self, pairs: Pairs) -> Array:
        """int64 [B, F] rows of the hashed table; 0 = missing."""
        items, known_B = self.shop.items, pairs.item_B >= 0
        item_B = np.maximum(pairs.item_B, 0)
        query_B = np.where(pairs.query_B >= 0, self.shop.queries.slots.hashed[pairs.query_B], 0)
        columns = (
            pairs.user_hash_B,
            pairs.item_hash_B,
            items.categories.hashed[items.columns.category[item_B]] * known_B,
            items.brands.hashed[items.columns.brand[item_B]] * known_B,
            items.domains.hashed[pairs.domain_B],
            query_B,
            self.shop.devices.hashed[pairs.device_B],
            pairs.time_B // HOUR_MS % 24 + 1,
            pairs.surface_B,
        )
        hash_BF = np.stack(columns, 1)
        return _placed(hash_BF, np.arange(len(SPARSE)), self.table_rows)

    def known(self) -> dict[str, Ints]:
        """Hashes of all that the shop knows by name, of each sparse field that has names."""
        shop = self.shop
        return {
            "user": shop.users.slots.hashed,
            "item": shop.items.slots.hashed,
            "category": shop.items.categories.hashed,
            "brand": shop.items.brands.hashed,
            "domain": shop.items.domains.hashed,
            "query": shop.queries.slots.hashed,
            "device": shop.devices.hashed,
            "hour": np.arange(1, 25),
        }

    def dense(self, view: Viewpoint, pairs: Pairs, cosine_BT: Array) -> Array:
        """float32 [B, D]; `cosine_BT` comes from `cosines`."""
        demand_B = self.retrieval.demand(np.maximum(pairs.item_B, 0))
        columns = (
            *self._item(pairs, demand_B),
            *self._user(view, pairs),
            *self._links(view, pairs, demand_B),
            *self._own(view, pairs),
            *self._alike(view, pairs),
            *self._query(pairs),
            *self._words(view, pairs),
            *self._text(pairs, cosine_BT),
        )
        out_DB = np.empty((len(DENSE), len(pairs.row_B)), np.float32)
        for row_B, column_B in zip(out_DB, columns, strict=True):
            row_B[:] = column_B
        return np.ascontiguousarray(np.clip(out_DB, -4.0, 4.0, out=out_DB).T)

    def _item(self, pairs: Pairs, now_B: Array) -> list[Array]:
        shop, c = self.shop, self.shop.items.columns
        known_B, item_B = pairs.item_B >= 0, np.maximum(pairs.item_B, 0)
        shown_B, clicks_B, carts_B, bought_B = self._count(item_B, STEADY, pairs.time_B).T * known_B
        fast_B = self._count(item_B, FAST, pairs.time_B)[:, CLICKED] * known_B
        demand_B = np.log1p(now_B * known_B)
        log_price_B = np.where(known_B, c.log_price[item_B], np.nan)
        unpriced_B = np.isnan(log_price_B)
        means = shop.items.category_columns
        category_B = np.minimum(c.category[item_B], means.capacity - 1)
        versus_B = (log_price_B - means.price_mean[category_B]) * (means.prices[category_B] > 0)
        age_B = np.maximum(pairs.time_B - c.first_ms[item_B], 0) * known_B / HOUR_MS
        log_clicks_B, log_shown_B = np.log1p(clicks_B), np.log1p(shown_B)
        return [
            np.where(unpriced_B, 0.0, (log_price_B - 3.0) / 2.0),
            np.where(unpriced_B, 0.0, versus_B),
            log_clicks_B / 2,
            np.log1p(carts_B),
            np.log1p(bought_B),
            log_shown_B / 3,
            np.log1p(fast_B) / 2,
            demand_B / 2,
            (demand_B - self._top_demand(pairs.domain_B)) / 3,
            (np.log1p(fast_B) - log_clicks_B) / 2,
            (log_clicks_B - np.log(shown_B + clicks_B + 10.0) + 2.3) / 2,
            (np.log(bought_B + 0.5) - np.log(clicks_B + bought_B + 10.0) + 3.0) / 2,
            np.log1p(age_B) / 4,
            ~known_B,
            demand_B < 0.4,
            unpriced_B,
        ]

    def _user(self, view: Viewpoint, pairs: Pairs) -> list[Array]:
        c, known_U = self.shop.users.columns, view.user_U >= 0
        time_U = np.full(len(view.user_U), self.shop.now_ms)
        time_U[pairs.row_B] = pairs.time_B  # that of one of the user's rows: a chunk is short
        fade_U = self.shop.fadings[STEADY].at(time_U) * known_U
        shown_U, clicks_U, carts_U, bought_U = np.maximum(c.count[view.user_U], 0.0).T * fade_U
        length_U = (view.history_UH >= 0).sum(1)
        pause_U = np.maximum(time_U - c.time[view.user_U, 0], 0) * (length_U > 0) / MINUTE_MS
        of_U = np.stack(
            (
                np.log1p(clicks_U) / 2,
                np.log1p(carts_U),
                np.log1p(bought_U),
                np.log1p(shown_U) / 3,
                (np.log1p(clicks_U) - np.log(shown_U + clicks_U + 10.0) + 2.3) / 2,
                length_U / 15.0,
                np.log1p(pause_U) / 4,
                length_U == 0,
            )
        )
        return list(of_U[:, pairs.row_B])

    def _links(self, view: Viewpoint, pairs: Pairs, demand_B: Array) -> list[Array]:
        items, row_B, item_B = self.shop.items, pairs.row_B, pairs.item_B
        total_B = view.covisits.to(row_B, np.maximum(item_B, 0)) * (item_B >= 0)
        of_all_U = view.covisits.totals(len(view.user_U))
        last_U, before_U = view.history_UH[:, 0], view.history_UH[:, 1]
        linked = self.retrieval.linked
        return [
            np.log1p(total_B),
            np.log1p(linked(items.covisits, last_U, row_B, item_B)),
            3 * total_B / (of_all_U[row_B] + 1.0),
            np.log1p(10 * total_B / (demand_B + 5.0)),
            np.log1p(view.follows.to(row_B, np.maximum(item_B, 0)) * (item_B >= 0)),
            np.log1p(linked(items.transitions, before_U, row_B, item_B)),
        ]

    def _own(self, view: Viewpoint, pairs: Pairs) -> list[Array]:
        """What the user has done with this very item: nothing for most, so the others are looked at alone."""
        u, row_B, item_B = self.shop.users.columns, pairs.row_B, pairs.item_B
        own_B = (view.own.to(row_B, np.maximum(item_B, 0)) > 0) & (item_B >= 0)
        hit_M = np.flatnonzero(own_B)
        row_M, user_M = row_B[hit_M], view.user_U[row_B[hit_M]]
        same_MH = view.history_UH[row_M] == item_B[hit_M, None]
        place_M = same_MH.argmax(1)
        kind_M, time_M = u.kind[user_M, place_M], u.time[user_M, place_M]
        of_hits = np.zeros((5, len(row_B)), np.float32)
        of_hits[:, hit_M] = (
            np.log1p((same_MH * u.times[user_M]).sum(1)),
            1.0 / (1.0 + place_M / 3.0),
            kind_M == CARTED,
            kind_M == BOUGHT,
            np.log1p(np.maximum(pairs.time_B[hit_M] - time_M, 0) / MINUTE_MS) / 4,
        )
        return [own_B, *of_hits, self._seen(view, pairs)]

    def _seen(self, view: Viewpoint, pairs: Pairs) -> Array:
        """Whether the item was among the last ones shown to the user."""
        seen_US = self.shop.users.columns.seen.take(view.user_U, 0)
        seen_US[view.user_U < 0] = -1
        hit_SB = seen_US.T.take(pairs.row_B, 1) == pairs.item_B
        return np.asarray(hit_SB.any(0) & (pairs.item_B >= 0))

    def _alike(self, view: Viewpoint, pairs: Pairs) -> list[Array]:
        """How alike the item is to the user's recent ones: category, brand, domain, price."""
        c, row_B = self.shop.items.columns, pairs.row_B
        known_B, item_B = pairs.item_B >= 0, np.maximum(pairs.item_B, 0)
        category_B = np.where(known_B, c.category[item_B], 0)
        brand_B = np.where(known_B, c.brand[item_B], -1)
        brand_B[brand_B == 0] = -1  # having no brand is not being alike
        brand_UH = np.where(view.history_UH >= 0, c.brand[view.history_UH], 0)
        equal_HB = brand_UH.T.take(row_B, 1) == brand_B
        versus_B = self._price_versus_recent(view, row_B, item_B) * known_B
        return [
            (view.category_UH[:, 0][row_B] == category_B),
            self.retrieval.category_share(view, row_B, item_B) * known_B,
            equal_HB[0],
            affinity.row_sums(equal_HB * view.near_UH.T.take(row_B, 1)),
            np.where(known_B, c.domain[item_B], 0) == pairs.domain_B,
            versus_B,
            np.abs(versus_B),
        ]

    def _query(self, pairs: Pairs) -> list[Array]:
        """Clicks on the item after the row's query, and their share of all clicks after it."""
        shop, clicked, query_B = self.shop, self.shop.queries.clicked, pairs.query_B
        asked_B = query_B >= 0
        if not asked_B.any():
            return [np.zeros(len(query_B))] * 3
        start_R, run_B = _runs(pairs)
        query_R = query_B[start_R]
        now_R = (query_R >= 0) * float(shop.link_fading.at(shop.now_ms))
        total_R = (clicked.weight[query_R] * now_R[:, None]).sum(1)
        answers_B = self.retrieval.linked(clicked, query_R, run_B, pairs.item_B)
        return [asked_B, np.log1p(answers_B), 3 * answers_B / (total_R[run_B] + 1.0)]

    def _words(self, view: Viewpoint, pairs: Pairs) -> list[Array]:
        """What the user and the crowd make of the item's words, and which of them were just looked at."""
        shop, row_B = self.shop, pairs.row_B
        tokens, known_B = shop.items.columns.tokens, pairs.item_B >= 0
        token_KB = np.ascontiguousarray(tokens.take(np.maximum(pairs.item_B, 0), 0).T) * known_B
        fade = float(shop.fadings[SLOW].at(shop.now_ms))
        usual = affinity.usual_rate(shop.crowd_2N, fade)
        taste_U2W = shop.users.columns.taste[view.user_U] * (view.user_U >= 0)[:, None, None]
        own_KB = affinity.of_users(taste_U2W, fade, row_B, token_KB, usual)
        crowd_KB = affinity.of_crowd(shop.crowd_2N, fade, token_KB)
        words = slice(0, affinity.WORDS)
        length_B = np.maximum((token_KB[words] > 0).sum(0), 1)
        recent_US = view.history_UH[:, :SESSION]
        pause_US = shop.now_ms - shop.users.columns.time[view.user_U, :SESSION]
        fresh_US = (recent_US >= 0) & (pause_US <= SESSION_MS)
        seen_USK = tokens.take(np.maximum(recent_US, 0), 0) * fresh_US[:, :, None]
        weight_S = 0.7 ** np.arange(SESSION)
        flat_UN = seen_USK[:, :, words].reshape(len(recent_US), -1)
        seen_NB = np.ascontiguousarray(flat_UN.take(row_B, 0).T)
        weight_N = np.repeat(weight_S, affinity.WORDS) / 4
        session_B = affinity.shared(token_KB[words], seen_NB, weight_N)
        last_B = affinity.shared(token_KB[words], seen_NB[words], np.full(affinity.WORDS, 0.25))
        category_KB = token_KB[affinity.CATEGORY : affinity.CATEGORY + 1]
        category_SB = np.ascontiguousarray(seen_USK[:, :, affinity.CATEGORY].take(row_B, 0).T)
        category_B = affinity.shared(category_KB, category_SB, weight_S)
        return [
            affinity.row_sums(own_KB[words]) / length_B * 2,
            own_KB[words].max(0),
            own_KB[words].min(0),
            own_KB[affinity.CATEGORY],
            own_KB[affinity.BRAND],
            affinity.row_sums(crowd_KB[words]) / length_B * 2,
            crowd_KB[affinity.CATEGORY],
            crowd_KB[affinity.BRAND],
            last_B,
            session_B,
            category_B,
            self._words_asked(pairs, token_KB[words]),
        ]

    def _words_asked(self, pairs: Pairs, token_KB: Array) -> Array:
        """Share of the query's words that the item has."""
        if not (pairs.query_B >= 0).any():
            return np.zeros(len(pairs.query_B))
        query_BN = self.shop.queries.columns.words.take(pairs.query_B, 0)
        query_NB = np.ascontiguousarray(query_BN.T) * (pairs.query_B >= 0)
        asked_B = np.maximum((query_NB > 0).sum(0), 1)
        shared_B = affinity.shared(token_KB, query_NB, np.ones(affinity.WORDS))
        return np.asarray(shared_B / asked_B)

    def _text(self, pairs: Pairs, cosine_BT: Array) -> list[Array]:
        """Cosines of the title with the user's tastes and with the query, doubled."""
        untitled_B = ~self.shop.items.columns.titled[pairs.item_B] | (pairs.item_B < 0)
        return [*(2 * cosine_BT.T[:4]), untitled_B * bool(self.shop.text_dim)]

    def cosines(self, view: Viewpoint, pairs: Pairs) -> Array:
        """float32 [B, 5]: last title, mean of five, of all, query, and what is sought.

        Rows of one user and query stand together, so each run is one small matrix product.
        """
        cosine_BT = np.zeros((len(pairs.row_B), 5), np.float32)
        if not self.shop.text_dim or not len(cosine_BT):
            return cosine_BT
        unit, asked = self.shop.items.columns.unit, self.shop.queries.columns.unit
        start_R, _ = _runs(pairs)
        row_R, query_R = pairs.row_B[start_R], pairs.query_B[start_R]
        query_RE = asked[query_R] * (query_R >= 0)[:, None]
        sides_RTE = np.stack(
            [*(taste[row_R] for taste in view.tastes), query_RE, view.sought_UE[row_R]], 1
        )
        starts = start_R.tolist()
        for start, stop, sides_TE in zip(
            starts, [*starts[1:], len(cosine_BT)], sides_RTE, strict=True
        ):
            cosine_BT[start:stop] = unit.take(pairs.item_B[start:stop], 0) @ sides_TE.T
        cosine_BT[pairs.item_B < 0] = 0
        return cosine_BT

    def _count(self, item_B: Ints, speed: int, time_B: Ints) -> Array:
        """Faded counts of items at the rows' times, [B, KINDS]; refunds cannot make them negative."""
        count_BK = self.shop.items.columns.count.take(item_B, 0)[:, :, speed]
        return np.maximum(count_BK, 0.0) * self.shop.fadings[speed].at(time_B)[:, None]

    def _top_demand(self, domain_B: Ints) -> Array:
        """log(1 + demand) of the most wanted item of the rows' domains."""
        domain_G, of_B = np.unique(domain_B, return_inverse=True)
        top_G = self.shop.items.popular.of(domain_G)[:, 0].astype(np.int64)
        demand_G = np.where(top_G >= 0, self.retrieval.demand(np.maximum(top_G, 0)), 0.0)
        return np.asarray(np.log1p(demand_G)[of_B])

    def _price_versus_recent(self, view: Viewpoint, row_B: Ints, item_B: Ints) -> Array:
        """log price less its mean over the user's five newest items; 0 where one is not known."""
        log_price, recent_UN = self.shop.items.columns.log_price, view.history_UH[:, :5]
        log_UN = np.where(recent_UN >= 0, log_price[recent_UN], np.nan)
        there_UN = ~np.isnan(log_UN)
        count_U = there_UN.sum(1)
        mean_U = np.where(there_UN, log_UN, 0.0).sum(1) / np.maximum(count_U, 1)
        versus_B = log_price[item_B] - mean_U[row_B]
        return np.where((count_U > 0)[row_B] & ~np.isnan(versus_B), versus_B, 0.0)


def _runs(pairs: Pairs) -> tuple[Ints, Ints]:
    """Runs of rows of one user and query: where each starts [R], and the run of every row [B]."""
    row_B, query_B = pairs.row_B, pairs.query_B
    new_B = np.ones(len(row_B), bool)
    new_B[1:] = (row_B[1:] != row_B[:-1]) | (query_B[1:] != query_B[:-1])
    return np.flatnonzero(new_B), new_B.cumsum() - 1
