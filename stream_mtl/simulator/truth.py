"""The known truth: P(click) and P(click and buy) of every shown item.

One click decision is made per shown item, and one purchase decision per click. All clicks come within
the click window and before the user's next page, and an item that a user will have bought is not shown to
her again; so whatever the join attributes by (request id or last touch), the label is this decision,
and a purchase counts when its delay ends inside its window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream_mtl.config import DAY, HOUR
from stream_mtl.simulator.catalogue import APPEAL, DEAR, POPULARITY, QUALITY, Catalogue
from stream_mtl.simulator.people import D, Floats, K, Person
from stream_mtl.simulator.scenario import (
    CLICK_WINDOW_MS,
    PURCHASE_WINDOW_MS,
    START_MS,
    Scenario,
)
from stream_mtl.simulator.words import DEVICES

PLACES = 10

_HALVES = np.where(np.arange(K) < K // 2, 1.0, -1.0)
_TEETH = np.where(np.arange(K) % 2 == 0, 1.0, -1.0)
_PAIRS = np.where(np.arange(K) // 2 % 2 == 0, 1.0, -1.0)
_DEVICE_TOPIC = np.stack([_TEETH, -_TEETH, _PAIRS])  # devices x K
# `season`: which topics a domain likes, how it turns the price and the device upside down.
_DOMAIN_TOPIC = np.stack([_HALVES, -_HALVES, -_TEETH, _PAIRS])
_DOMAIN_PRICE = np.array([-1.0, 1.0, 0.6, -0.6])
_DOMAIN_DEVICE = np.array([1.0, -1.0, -0.5, 0.5])


@dataclass(slots=True)
class Context:
    """What a session is about so far, and what the page was asked for."""

    domain: int
    device: int
    clicked_K: Floats  # decayed mean of the topics clicked in this session, zero-sum
    clicked_category: int = -1
    query_topic: int = -1  # of a search page, -1 = none
    search: bool = False


def within_window_share(shop: Scenario) -> float:
    """P(a purchase comes within its window): the delay is `CLICK_WINDOW_MS` + a lognormal one."""
    room = math.log((PURCHASE_WINDOW_MS - CLICK_WINDOW_MS) / shop.buy_delay_median_ms)
    return 0.5 * (1.0 + math.erf(room / shop.buy_delay_sigma / math.sqrt(2.0)))


class Truth:
    """Probabilities under a scenario."""

    def __init__(self, shop: Scenario) -> None:
        self._shop = shop
        self._place = -shop.position_drop * np.log(np.arange(1, PLACES + 1))
        self._in_window = within_window_share(shop)
        base = shop.conflict * _DOMAIN_TOPIC
        device = (shop.device_topic + 0.6 * shop.conflict * _DOMAIN_DEVICE)[:, None, None]
        self._fixed_DVK = base[:, None, :] + device * _DEVICE_TOPIC  # domain x device x topic
        # Conflicting domains also differ in whether a high price attracts.
        self._price_D = shop.conflict * _DOMAIN_PRICE if shop.conflict else np.zeros(D)
        self._trend_K = np.zeros(K)
        self._hour = 0.0
        self.at(START_MS)

    def at(self, time_ms: int) -> None:
        """Hourly: fashions of topics (each its own period of 6 to 15 days), and the hour of the day."""
        days = (time_ms - START_MS) / DAY
        period = 6.0 + np.arange(K)
        self._trend_K = self._shop.trend * np.sin(2 * np.pi * days / period + 2.4 * np.arange(K))
        hour = time_ms // HOUR % 24
        self._hour = self._shop.evening if 18 <= hour < 23 else 0.0

    def page(
        self, items: Catalogue, slots: npt.NDArray[np.int64], person: Person, context: Context
    ) -> tuple[Floats, Floats]:
        """(P(click), P(buy | click), counted without its delay) of the items in their places."""
        shop, domain = self._shop, context.domain
        category = items.category[slots]
        taste = person.taste_DK[domain]
        wish_K = shop.taste * taste + shop.session * context.clicked_K + self._trend_K
        wish_K += self._fixed_DVK[domain, context.device]
        if context.query_topic >= 0:
            wish_K[context.query_topic] += shop.query_match
        weight = np.zeros((K + 4, 2))  # of an item's numbers, for the click and for the purchase
        weight[:K, 0] = wish_K
        weight[DEAR, 0] = person.price_slope + self._price_D[domain]
        weight[APPEAL, 0], weight[POPULARITY, 0] = 1.0, shop.popularity
        weight[:K, 1] = shop.buy_taste * taste + shop.buy_session * context.clicked_K
        weight[DEAR, 1] = shop.buy_price + 1.5 * (person.price_slope - shop.price)
        weight[QUALITY, 1] = shop.buy_quality
        logit = items.table_MF[slots] @ weight

        logit[:, 0] += self._place[: len(slots)] + shop.category_taste * person.category_C[category]
        logit[:, 0] += shop.session_category * (category == context.clicked_category)
        logit[:, 0] += shop.click_base + person.bias + self._hour
        logit[:, 1] += (
            shop.buy_base
            + person.buy_bias
            + shop.buy_search * context.search
            + shop.buy_desktop * (DEVICES[context.device] == "desktop")
        )
        chance = 1.0 / (1.0 + np.exp(-logit))
        return chance[:, 0], chance[:, 1]

    def purchase(self, click: Floats, buy: Floats) -> Floats:
        """P(label `purchase` = 1): clicked, bought, and bought within the window."""
        return click * buy * self._in_window


def clicked_on(context: Context, items: Catalogue, slot: int) -> None:
    """The session turns towards what was clicked; an older click weighs half."""
    context.clicked_K = 0.5 * context.clicked_K + 0.5 * (items.mix_MK[slot] - 1.0 / K)
    context.clicked_category = int(items.category[slot])
