"""What the model is told of a (user, item) pair: hashed fields, and dense values squashed to about [-3, 3].

Everything is read from the shop as it is now, so whoever asks before an event is applied cannot see it.
Legend: U users (distinct), B rows, H history, F sparse fields, D dense fields. Slot -1 = not known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stream_mtl.hashing import mix64
from stream_mtl.retrieval import Links, Retrieval
from stream_mtl.shop import Shop
from stream_mtl.shop.catalogue import BOUGHT, CARTED, CLICKED, DEMAND, FAST, SHOWN, SLOW, STEADY
from stream_mtl.shop.columns import Array, Ints

HOUR_MS = 3_600_000
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
USER = ("user_clicks", "user_carts", "user_purchases", "user_shown", "user_click_rate", "history", "pause", "stranger")
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
TEXT = ("title_last", "title_recent", "title_taste", "title_query", "untitled")
DENSE = (*ITEM, *USER, *PAIR, *TEXT)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rows to describe: B rows that point at U distinct users. Times and hashes are of the rows."""

    user_U: Ints
    row_B: Ints  # index into user_U
    item_B: Ints
    query_B: Ints
    time_B: Ints
    user_hash_B: Ints
    item_hash_B: Ints
    device_B: Ints  # code
    domain_B: Ints  # code
    surface_B: Ints  # hash, 0 = none


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
        salted_BF = hash_BF + (np.arange(len(SPARSE)) << 56)
        return np.where(hash_BF != 0, mix64(salted_BF) % (self.table_rows - 1) + 1, 0)

    def dense(self, pairs: Pairs, links: Links) -> Array:
        """float32 [B, D]"""
        out_BD = np.zeros((len(pairs.row_B), len(DENSE)), np.float32)
        columns = [*self._item(pairs), *self._user(pairs), *self._pair(pairs, links), *self._text(pairs)]
        for d, column_B in enumerate(columns):
            out_BD[:, d] = column_B
        return np.clip(out_BD, -4.0, 4.0, out=out_BD)

    def _item(self, pairs: Pairs) -> list[Array]:
        shop, c = self.shop, self.shop.items.columns
        known_B, item_B = pairs.item_B >= 0, np.maximum(pairs.item_B, 0)
        steady_BK = self._count(item_B, STEADY, pairs.time_B) * known_B[:, None]
        fast_B = self._count(item_B, FAST, pairs.time_B)[:, CLICKED] * known_B
        slow_B = self._count(item_B, SLOW, pairs.time_B) @ DEMAND * known_B
        price_B = np.where(known_B, c.price[item_B], np.nan)
        unpriced_B = np.isnan(price_B)
        log_B = np.log1p(np.maximum(np.nan_to_num(price_B), 0.0))
        mean = shop.items.category_columns
        category_B = np.minimum(c.category[item_B], mean.capacity - 1)
        versus_B = np.where(unpriced_B | (mean.prices[category_B] == 0), 0.0, log_B - mean.price_mean[category_B])
        shown_B, clicks_B, carts_B, bought_B = steady_BK.T
        top_B = self._top_demand(pairs.domain_B)
        age_B = np.where(known_B, np.maximum(pairs.time_B - c.first_ms[item_B], 0) / HOUR_MS, 0.0)
        return [
            np.where(unpriced_B, 0.0, (log_B - 3.0) / 2.0),
            versus_B,
            np.log1p(clicks_B) / 2,
            np.log1p(carts_B),
            np.log1p(bought_B),
            np.log1p(shown_B) / 3,
            np.log1p(fast_B) / 2,
            np.log1p(slow_B) / 2,
            (np.log1p(slow_B) - np.log1p(top_B)) / 3,
            (np.log1p(fast_B) - np.log1p(clicks_B)) / 2,
            (np.log(clicks_B + 1.0) - np.log(shown_B + clicks_B + 10.0) + 2.3) / 2,
            (np.log(bought_B + 0.5) - np.log(clicks_B + bought_B + 10.0) + 3.0) / 2,
            np.log1p(age_B) / 4,
            ~known_B,
            slow_B < 0.5,
            unpriced_B,
        ]

    def _user(self, pairs: Pairs) -> list[Array]:
        c, known_U = self.shop.users.columns, pairs.user_U >= 0
        time_U = self._time_of_users(pairs)
        count_UK = c.count[pairs.user_U] * self.shop.fadings[STEADY].at(time_U)[:, None] * known_U[:, None]
        shown_U, clicks_U, carts_U, bought_U = np.maximum(count_UK, 0.0).T
        history_UH = self.retrieval.history(pairs.user_U)
        length_U = (history_UH >= 0).sum(1)
        pause_U = np.where(length_U > 0, np.maximum(time_U - c.time[pairs.user_U, 0], 0) / 60_000, 0.0)
        columns = (
            np.log1p(clicks_U) / 2,
            np.log1p(carts_U),
            np.log1p(bought_U),
            np.log1p(shown_U) / 3,
            (np.log(clicks_U + 1.0) - np.log(shown_U + clicks_U + 10.0) + 2.3) / 2,
            length_U / 15.0,
            np.log1p(pause_U) / 4,
            length_U == 0,
        )
        return [column[pairs.row_B] for column in columns]

    def _pair(self, pairs: Pairs, links: Links) -> list[Array]:
        shop, c, user_U = self.shop, self.shop.items.columns, pairs.user_U
        row_B, item_B = pairs.row_B, pairs.item_B
        known_B, safe_B = item_B >= 0, np.maximum(item_B, 0)
        history_UH = self.retrieval.history(user_U)
        there_UH = history_UH >= 0
        total_B = links.covisits(row_B, safe_B) * known_B
        all_U = np.bincount(links.key_K // links.stride, links.covisit_K, len(user_U))
        demand_B = self._count(safe_B, SLOW, pairs.time_B) @ DEMAND
        fade = float(shop.link_fading.at(shop.now_ms))
        together_B = self._linked(shop.items.covisits, history_UH[:, 0], row_B, item_B) * fade
        follows_B = self._linked(shop.items.transitions, history_UH[:, 0], row_B, item_B) * fade
        before_B = self._linked(shop.items.transitions, history_UH[:, 1], row_B, item_B) * fade
        same_BH = (history_UH[row_B] == item_B[:, None]) & known_B[:, None]
        own_B, place_B = same_BH.any(1), same_BH.argmax(1)
        u = shop.users.columns
        at = (user_U[row_B], place_B)
        kind_B = np.where(own_B, u.kind[at], 0)
        pause_B = np.where(own_B, np.maximum(pairs.time_B - u.time[at], 0) / 60_000, 0.0)
        times_B = (same_BH * u.times[user_U[row_B]]).sum(1)
        seen_B = ((u.seen[user_U[row_B]] == item_B[:, None]) & (item_B >= 0)[:, None]).any(1) & (user_U >= 0)[row_B]
        near_H = np.where(there_UH, 0.85 ** np.arange(history_UH.shape[1]), 0.0)
        near_UH = near_H / np.maximum(near_H.sum(1, keepdims=True), 1e-9)
        shares = []
        for column in (c.category, c.brand):
            mine_UH = np.where(there_UH, column[history_UH], 0)
            theirs_B = np.where(known_B, column[safe_B], 0)
            equal_BH = (mine_UH[row_B] == theirs_B[:, None]) & (theirs_B > 0)[:, None]
            shares += [equal_BH[:, 0], (equal_BH * near_UH[row_B]).sum(1)]
        versus_B = self._price_versus_recent(history_UH[:, :5], row_B, safe_B) * known_B
        asked_B = pairs.query_B >= 0
        answers_B, all_answers_B = self._answers(pairs)
        return [
            np.log1p(total_B),
            np.log1p(together_B),
            total_B / (all_U[row_B] + 1.0) * 3,
            np.log1p(10 * total_B / (demand_B + 5.0)),
            np.log1p(follows_B),
            np.log1p(before_B),
            own_B,
            np.log1p(times_B),
            own_B / (1.0 + place_B / 3.0),
            kind_B == CARTED,
            kind_B == BOUGHT,
            np.log1p(pause_B) / 4,
            seen_B,
            *shares,
            np.where(known_B, c.domain[safe_B], 0) == pairs.domain_B,
            versus_B,
            np.abs(versus_B),
            asked_B,
            np.log1p(answers_B),
            answers_B / (all_answers_B + 1.0) * 3,
        ]

    def _text(self, pairs: Pairs) -> list[Array]:
        shop, row_B = self.shop, pairs.row_B
        if not shop.text_dim:
            return [np.zeros(len(row_B))] * len(TEXT)
        unit = shop.items.columns.unit
        known_B, item_B = pairs.item_B >= 0, np.maximum(pairs.item_B, 0)
        title_BE = unit[item_B] * known_B[:, None]
        tastes = self.retrieval.tastes(pairs.user_U)
        columns = [np.einsum("be,be->b", title_BE, taste_UE[row_B]) for taste_UE in tastes]
        asked_B = pairs.query_B >= 0
        query_BE = shop.queries.columns.unit[pairs.query_B]
        columns.append(np.einsum("be,be->b", title_BE, query_BE) * asked_B)
        return [*(2 * column for column in columns), ~title_BE.any(1)]

    def _count(self, item_B: Ints, speed: int, time_B: Ints) -> Array:
        """Faded counts of items at the rows' times, [B, KINDS]; refunds cannot make them negative."""
        count_BK = self.shop.items.columns.count[item_B, :, speed]
        return np.maximum(count_BK, 0.0) * self.shop.fadings[speed].at(time_B)[:, None]

    def _time_of_users(self, pairs: Pairs) -> Ints:
        """The time of one of the user's rows: a cut is short."""
        time_U = np.zeros(len(pairs.user_U), np.int64)
        time_U[pairs.row_B] = pairs.time_B
        return time_U

    def _top_demand(self, domain_B: Ints) -> Array:
        shop = self.shop
        domain_G, of_B = np.unique(domain_B, return_inverse=True)
        top_G = shop.items.popular.of(domain_G)[:, 0]
        demand_G = np.where(top_G >= 0, shop.items.columns.count[top_G, :, SLOW] @ DEMAND, 0.0)
        return np.asarray(demand_G * shop.fadings[SLOW].at(shop.now_ms))[of_B]

    def _linked(self, table: object, from_U: Array, row_B: Ints, item_B: Ints) -> Array:
        """Strength of the link from one item a user to the row's item."""
        slot_UW, weight_UW = table.slot[from_U], table.weight[from_U] * (from_U >= 0)[:, None]  # type: ignore[attr-defined]
        match_BW = (slot_UW[row_B] == item_B[:, None]) & (item_B >= 0)[:, None]
        return np.asarray((match_BW * weight_UW[row_B]).sum(1))

    def _answers(self, pairs: Pairs) -> tuple[Array, Array]:
        """Clicks on the item after the row's query, and on anything."""
        shop, clicked = self.shop, self.shop.queries.clicked
        fade = float(shop.link_fading.at(shop.now_ms))
        asked_B = pairs.query_B >= 0
        weight_BW = clicked.weight[pairs.query_B] * (asked_B[:, None] * fade)
        match_BW = (clicked.slot[pairs.query_B] == pairs.item_B[:, None]) & (pairs.item_B >= 0)[:, None]
        return (match_BW * weight_BW).sum(1), weight_BW.sum(1)

    def _price_versus_recent(self, recent_UN: Array, row_B: Ints, item_B: Ints) -> Array:
        price = self.shop.items.columns.price
        log_UN = np.log1p(np.maximum(np.where(recent_UN >= 0, price[recent_UN], np.nan), 0.0))
        there_UN = ~np.isnan(log_UN)
        mean_U = np.where(there_UN, log_UN, 0.0).sum(1) / np.maximum(there_UN.sum(1), 1)
        log_B = np.log1p(np.maximum(price[item_B], 0.0))
        good_B = there_UN.any(1)[row_B] & ~np.isnan(log_B)
        return np.where(good_B, log_B - mean_U[row_B], 0.0)
