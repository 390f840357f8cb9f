"""The catalogue: items in a fixed number of slots, as arrays, so that a page is priced in a few numpy calls."""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from stream_mtl.simulator.people import PER_DOMAIN, C, D, K
from stream_mtl.simulator.record import Simulated
from stream_mtl.simulator.scenario import Scenario
from stream_mtl.simulator.words import (
    BRAND_ENDINGS,
    BRAND_SYLLABLES,
    CATEGORIES,
    DOMAINS,
    TOPICS,
)

Ints = npt.NDArray[np.int64]

NOUNS = tuple(pair for domain in DOMAINS for pair in CATEGORIES[domain])  # C x (English, Chinese)
WORDS = tuple(TOPICS.values())
BRANDS = tuple(a + b for a in BRAND_SYLLABLES for b in BRAND_ENDINGS)  # 120: 30 a domain
DEAR, QUALITY, APPEAL, POPULARITY = range(K, K + 4)  # columns of `table_MF`
_NEWEST = 24  # items a domain shows as new
# Brand b belongs to domain b % D and speaks of topic (b // D) % K, with this chance for each item.
_BRAND_TOPIC = 0.75


class Catalogue:
    """M slots. `mix_MK` says what each item is about; rows sum to 1."""

    def __init__(self, shop: Scenario, rng: np.random.Generator) -> None:
        m = shop.items
        self._shop, self._rng = shop, rng
        self._made = 0
        self.ids = [""] * m
        self.titles = [""] * m
        self.shown_json = [""] * m  # '{"item_id":"...","position":'
        # What the probabilities read of an item, one row a slot: topics, then DEAR to POPULARITY.
        self.table_MF = np.zeros((m, K + 4))
        self.mix_MK = self.table_MF[:, :K]  # these are views
        self.category = np.zeros(m, np.int64)
        self.brand = np.zeros(m, np.int64)
        self.price = np.ones(m)
        self.dear = self.table_MF[:, DEAR]  # standardised log price within the category
        self.quality = self.table_MF[:, QUALITY]
        self.popularity = self.table_MF[:, POPULARITY]
        self.appeal = self.table_MF[
            :, APPEAL
        ]  # to everybody, logit: the item's, its category's and its brand's
        self._category_appeal = shop.category_appeal * rng.standard_normal(C)
        self._brand_appeal = shop.brand_appeal * rng.standard_normal(len(BRANDS))
        self.alive = np.zeros(m, bool)
        self.available = np.zeros(m, bool)
        self._free = deque(range(m))
        self.newest: list[deque[int]] = [deque(maxlen=_NEWEST) for _ in range(D)]
        self._stale = True
        self._by_domain: list[Ints] = []
        self._by_category: list[Ints] = []
        self._cumulative: list[npt.NDArray[np.float64]] = []

    @property
    def missing(self) -> int:
        return len(self._free)

    def add(self) -> int:
        """A new item in a free slot; not shown before `announce`."""
        rng, slot = self._rng, self._free.popleft()
        domain = self._shop.domains[int(rng.integers(len(self._shop.domains)))]
        category = domain * PER_DOMAIN + int(rng.integers(PER_DOMAIN))
        brand = domain + D * int(rng.integers(len(BRANDS) // D))
        topic = (brand // D) % K if rng.random() < _BRAND_TOPIC else int(rng.integers(K))
        second = int(rng.integers(K))
        self.mix_MK[slot] = 0.0
        self.mix_MK[slot, topic] += 0.85
        self.mix_MK[slot, second] += 0.15
        self.category[slot], self.brand[slot] = category, brand
        self.quality[slot], self.popularity[slot] = rng.standard_normal(2)
        self.appeal[slot] = (
            self._shop.quality * self.quality[slot]
            + self._category_appeal[category]
            + self._brand_appeal[brand]
        )
        self.dear[slot] = rng.standard_normal()
        self._set_price(slot)
        self.ids[slot] = f"i{self._made:06d}"
        self._made += 1
        self.titles[slot] = self._title(slot, topic, second)
        self.shown_json[slot] = f'{{"item_id":"{self.ids[slot]}","position":'
        return slot

    def _set_price(self, slot: int) -> None:
        level = 12.0 + 9.0 * (int(self.category[slot]) % 7)  # each category has its own price level
        self.price[slot] = round(level * float(np.exp(0.5 * self.dear[slot])), 2)

    def _title(self, slot: int, topic: int, second: int) -> str:
        rng, brand = self._rng, BRANDS[int(self.brand[slot])]
        language = int(rng.random() < self._shop.chinese_share)
        words = WORDS[topic][language]
        one, two = rng.permutation(len(words))[:2]
        other = WORDS[second][language][int(rng.integers(3))]
        noun = NOUNS[int(self.category[slot])][language]
        if language:
            return f"{brand} {words[one]}{words[two]}{other}{noun}"
        return f"{brand} {words[one]} {words[two]} {other} {noun}"

    def announce(self, slot: int) -> None:
        self.alive[slot] = self.available[slot] = True
        self.newest[int(self.category[slot]) // PER_DOMAIN].append(slot)
        self._stale = True

    def withdraw(self, slot: int) -> None:
        self.alive[slot] = self.available[slot] = False
        domain_new = self.newest[int(self.category[slot]) // PER_DOMAIN]
        if slot in domain_new:
            domain_new.remove(slot)
        self._free.append(slot)
        self._stale = True

    def set_available(self, slot: int, available: bool) -> None:
        self.available[slot] = available
        self._stale = True

    def reprice(self, slot: int) -> None:
        self.dear[slot] = 0.7 * self.dear[slot] + 0.7 * self._rng.standard_normal()
        self._set_price(slot)

    def drift(self) -> None:
        """One hour of an Ornstein-Uhlenbeck walk, stationary at variance 1, half forgotten in 3 days."""
        keep = 0.5 ** (1 / 72)
        noise = np.sqrt(1 - keep**2) * self._rng.standard_normal(len(self.popularity))
        self.popularity[:] = keep * self.popularity + noise
        self._stale = True

    def any_alive(self) -> int:
        """Some item that lives and is available."""
        return int(self._rng.choice(np.flatnonzero(self.available)))

    def _refresh(self) -> None:
        slots = np.flatnonzero(self.available)
        category = self.category[slots]
        slots = slots[np.argsort(category, kind="stable")]
        # Categories are numbered domain by domain, so both are slices of one sorted array.
        end = [0, *np.cumsum(np.bincount(category, minlength=C)).tolist()]
        self._by_category = [slots[end[c] : end[c + 1]] for c in range(C)]
        self._by_domain = [slots[end[d * PER_DOMAIN] : end[(d + 1) * PER_DOMAIN]] for d in range(D)]
        self._cumulative = [np.cumsum(np.exp(self.popularity[s])) for s in self._by_domain]
        self._stale = False

    def of_category(self, category: int) -> Ints:
        if self._stale:
            self._refresh()
        return self._by_category[category]

    def of_domain(self, domain: int) -> Ints:
        if self._stale:
            self._refresh()
        return self._by_domain[domain]

    def popular(self, domain: int, count: int) -> Ints:
        """Drawn in proportion to popularity; may hold one item twice."""
        slots, cumulative = self.of_domain(domain), self._cumulative[domain]
        at = self._rng.random(count) * cumulative[-1]
        drawn: Ints = slots[np.searchsorted(cumulative, at, side="right")]
        return drawn

    def record(self, slot: int, time_ms: int, event_id: str) -> Simulated:
        """The item's whole record as of now."""
        category, item_id = int(self.category[slot]), self.ids[slot]
        available = "true" if self.available[slot] else "false"
        value = (
            f'{{"type":"item","event_id":"{event_id}","event_time":{time_ms},"item_id":"{item_id}",'
            f'"domain":"{DOMAINS[category // PER_DOMAIN]}","title":"{self.titles[slot]}",'
            f'"category":"{NOUNS[category][0]}","brand":"{BRANDS[int(self.brand[slot])]}",'
            f'"price":{self.price[slot]:.2f},"available":{available}}}'
        )
        return Simulated("items", item_id.encode(), value.encode(), time_ms, event_id)
