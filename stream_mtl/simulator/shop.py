"""The shop at work: a heap of things to come, popped in time order, so that memory stays bounded."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from stream_mtl.config import DAY, HOUR, MINUTE
from stream_mtl.hashing import hash64
from stream_mtl.simulator import wire
from stream_mtl.simulator.attack import attacked
from stream_mtl.simulator.catalogue import NOUNS, Catalogue
from stream_mtl.simulator.pages import home_page, search_page, search_wish
from stream_mtl.simulator.people import Floats, K, Person, Population, session_device
from stream_mtl.simulator.poison import poisoned
from stream_mtl.simulator.record import Simulated
from stream_mtl.simulator.scenario import (
    CLICK_WINDOW_MS,
    SCENARIOS,
    START_MS,
    Scenario,
)
from stream_mtl.simulator.truth import Context, Truth, clicked_on
from stream_mtl.simulator.wire import Visit
from stream_mtl.simulator.words import DEVICES, DOMAINS, MESSAGES, REVIEWS

_OPENING_MS = 10_000  # the first items are announced in this time, before anybody comes
# Share of a mean hour's sessions in each hour of the day: quiet nights, busy evenings.
_HOURS = (
    0.35, 0.2, 0.15, 0.15, 0.2, 0.35, 0.6, 0.9, 1.1, 1.2, 1.2, 1.2,
    1.3, 1.25, 1.15, 1.1, 1.15, 1.3, 1.5, 1.8, 2.0, 1.9, 1.4, 0.75,
)  # fmt: skip
_CLICKS_END_MS = CLICK_WINDOW_MS - 2 * MINUTE  # all clicks of a page, well inside their window

# Shares of the small things, chosen so that each type occurs in a few thousand records.
_WITH_REQUEST_ID = 0.9
_SEARCH_LISTS = 0.6  # search pages logged as the search itself; the rest as an impression
_VIEW_AFTER_CLICK = 0.6
_CART_BEFORE_PURCHASE, _CART_OTHERWISE = 0.7, 0.06
_REVIEW, _REFUND, _MESSAGE_AFTER_PURCHASE, _MESSAGE = 0.3, 0.05, 0.15, 0.02
_PROFILE = 0.6


@dataclass(slots=True)
class Session:
    person: Person
    visit: Visit
    context: Context


Action = Callable[[int], Iterator[Simulated]]


class Shop:
    """One run. Endless: take as many records as are wanted."""

    def __init__(self, shop: Scenario, rng: np.random.Generator) -> None:
        self._shop, self._rng = shop, rng
        self._items, self._people = Catalogue(shop, rng), Population(shop, rng)
        self._truth = Truth(shop)
        self._ids = itertools.count()
        self._order = itertools.count()  # equal times keep the order in which they were planned
        self._heap: list[tuple[int, int, Simulated | Action]] = []

    # -- the heap --------------------------------------------------------------------------------------

    def run(self) -> Iterator[Simulated]:
        """Records in time order, without end."""
        for i in range(self._shop.items_at_start):
            self._plan(START_MS + i * _OPENING_MS // self._shop.items_at_start, self._announce)
        self._plan(START_MS + _OPENING_MS, self._hour)
        while True:
            now, _, entry = heapq.heappop(self._heap)
            if isinstance(entry, Simulated):
                yield entry
            else:
                yield from entry(now)

    def _plan(self, time_ms: int, entry: Simulated | Action) -> None:
        heapq.heappush(self._heap, (time_ms, next(self._order), entry))

    def _id(self) -> str:
        return f"e{next(self._ids):08d}"

    def _chance(self, share: float) -> bool:
        return bool(self._rng.random() < share)

    def _wait(self, mean_ms: float) -> int:
        return int(self._rng.exponential(mean_ms)) + 1

    # -- the catalogue and the population ---------------------------------------------------------------

    def _hour(self, now: int) -> Iterator[Simulated]:
        """Plans the coming hour."""
        shop, rng = self._shop, self._rng
        self._truth.at(now)
        self._items.drift()

        def plan(count: int, action: Action) -> None:
            for offset in np.sort(rng.integers(HOUR, size=count)).tolist():
                self._plan(now + offset, action)

        plan(min(shop.items_per_hour, self._items.missing), self._announce)
        plan(int(rng.poisson(shop.price_changes_per_hour)), self._reprice)
        plan(int(rng.poisson(shop.outages_per_hour)), self._outage)
        plan(int(rng.poisson(shop.users * HOUR / shop.user_life_ms)), self._newcomer)
        busy = _HOURS[now // HOUR % 24]
        plan(int(rng.poisson(shop.sessions_per_hour * busy)), self._arrival)
        self._plan(now + HOUR, self._hour)
        yield from ()

    def _newcomer(self, now: int) -> Iterator[Simulated]:
        self._people.replace_one()
        yield from ()

    def _announce(self, now: int) -> Iterator[Simulated]:
        if not self._items.missing:
            return
        slot = self._items.add()
        self._items.announce(slot)
        self._plan(now + self._wait(self._shop.item_life_ms), self._withdrawal(slot))
        yield self._items.record(slot, now, self._id())

    def _withdrawal(self, slot: int) -> Action:
        def withdraw(now: int) -> Iterator[Simulated]:
            self._items.set_available(slot, False)
            record = self._items.record(slot, now, self._id())
            if self._chance(self._shop.withdrawn_as_null):
                record = Simulated("items", record.key, None, now, record.event_id)
            self._items.withdraw(slot)
            yield record

        return withdraw

    def _reprice(self, now: int) -> Iterator[Simulated]:
        slot = self._items.any_alive()
        self._items.reprice(slot)
        yield self._items.record(slot, now, self._id())

    def _outage(self, now: int) -> Iterator[Simulated]:
        slot = self._items.any_alive()
        item_id = self._items.ids[slot]
        self._items.set_available(slot, False)

        def back(later: int) -> Iterator[Simulated]:
            if self._items.ids[slot] == item_id and self._items.alive[slot]:
                self._items.set_available(slot, True)
                yield self._items.record(slot, later, self._id())

        self._plan(now + self._wait(DAY / 2), back)
        yield self._items.record(slot, now, self._id())

    # -- sessions ---------------------------------------------------------------------------------------

    def _arrival(self, now: int) -> Iterator[Simulated]:
        person, rng = self._people.visitor(), self._rng
        if person.busy:  # nobody shops twice at once: attribution by last touch stays exact
            return
        person.busy = True
        at = int(np.searchsorted(person.domain_share, rng.random(), side="right"))
        domain = self._shop.domains[min(at, len(self._shop.domains) - 1)]
        if self._shop.phase_ms:
            phase = (now - START_MS) // self._shop.phase_ms
            domain = self._shop.domains[phase % len(self._shop.domains)]
        device = session_device(person, rng)
        visit = Visit(person.user_id, f"s{next(self._ids):08d}", DOMAINS[domain], DEVICES[device])
        if not person.seen and self._chance(_PROFILE):
            yield wire.profile(self._id(), now, visit, person.attributes)
        person.seen = True
        session = Session(person, visit, Context(domain, device, np.zeros(K)))
        self._plan(now + 1_000, self._page(session))

    def _page(self, session: Session) -> Action:
        def page(now: int) -> Iterator[Simulated]:
            context, person = session.context, session.person
            context.search = self._chance(self._shop.search_share)
            context.query_topic, query = -1, ""
            if context.search:
                query, context.query_topic, category = search_wish(
                    person, context.domain, self._rng
                )
                slots = search_page(self._items, person, context.query_topic, category, self._rng)
            else:
                slots = home_page(self._items, person, context.domain, self._shop, self._rng)
            click, buy = self._truth.page(self._items, slots, person, context)
            request_id = f"r{next(self._ids):08d}"
            yield from self._exposure(now, session, slots.tolist(), query, click, buy, request_id)
            clicked = np.flatnonzero(self._rng.random(len(slots)) < click).tolist()
            end = self._clicks(now, session, slots, clicked, buy, request_id)
            if self._chance(_MESSAGE):
                self._message(end + 5_000, session.visit, int(slots[0]), "product_question")
            if self._chance(self._shop.pages_more):
                self._plan(end + 3_000 + self._wait(20_000), self._page(session))
            else:
                self._plan(end + MINUTE, self._leave(person))

        return page

    def _leave(self, person: Person) -> Action:
        def leave(now: int) -> Iterator[Simulated]:
            person.busy = False
            yield from ()

        return leave

    def _exposure(
        self,
        now: int,
        session: Session,
        slots: list[int],
        query: str,
        click: Floats,
        buy: Floats,
        request_id: str,
    ) -> Iterator[Simulated]:
        items, event_id = self._items, self._id()
        shown = ",".join([f"{items.shown_json[s]}{k}}}" for k, s in enumerate(slots, 1)])
        bought = self._truth.purchase(click, buy).tolist()
        truth = tuple(
            zip(
                [items.ids[s] for s in slots],
                click.tolist(),
                bought,
                range(1, len(slots) + 1),
                strict=True,
            )
        )
        if query and self._chance(_SEARCH_LISTS):
            yield wire.search(event_id, now, session.visit, query, request_id, shown, truth)
            return
        if query:
            yield wire.search(self._id(), now, session.visit, query, request_id)
        yield wire.impression(event_id, now, session.visit, query, request_id, shown, truth)

    def _clicks(
        self,
        now: int,
        session: Session,
        slots: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
        clicked: list[int],
        buy: Floats,
        request_id: str,
    ) -> int:
        """Plans what follows a page and returns when the user is done with it."""
        visit, time = session.visit, now + 2_000
        room = _CLICKS_END_MS // max(len(clicked), 1)
        surface = "search" if session.context.search else "home"
        for k in clicked:
            slot, began = int(slots[k]), time
            item_id = self._items.ids[slot]
            time += min(self._wait(8_000), room // 3)
            asked = request_id if self._chance(_WITH_REQUEST_ID) else ""
            self._plan(time, wire.click(self._id(), time, visit, item_id, asked, k + 1, surface))
            buys = self._chance(float(buy[k]))
            if self._chance(_VIEW_AFTER_CLICK):
                dwell = min(2_000 + self._wait(30_000 if buys else 15_000), room // 3)
                time += dwell
                self._plan(time, wire.view(self._id(), time, visit, item_id, dwell, surface))
            if self._chance(_CART_BEFORE_PURCHASE if buys else _CART_OTHERWISE):
                time += min(self._wait(4_000), room // 4)
                self._plan(time, wire.add_to_cart(self._id(), time, visit, item_id))
            if buys:
                self._purchase(now, session, slot, asked, float(buy[k]))
            clicked_on(session.context, self._items, slot)
            session.person.recent[session.context.domain] = int(self._items.category[slot])
            assert time - began <= room, "a click left its place in the page"
        return time

    def _purchase(
        self, shown_at: int, session: Session, slot: int, request_id: str, liking: float
    ) -> None:
        """The order, hours later, and what may follow it. The delay counts from the exposure."""
        shop, rng, visit = self._shop, self._rng, session.visit
        item_id, price = self._items.ids[slot], float(self._items.price[slot])
        session.person.remember_purchase(item_id)
        delay = shop.buy_delay_median_ms * np.exp(shop.buy_delay_sigma * rng.standard_normal())
        time = shown_at + CLICK_WINDOW_MS + int(delay)
        order_id = f"o{next(self._ids):08d}"
        self._plan(
            time, wire.purchase(self._id(), time, visit, item_id, order_id, price, request_id)
        )
        if self._chance(_REFUND):  # long after the window: a label stays what it was
            later = time + 3 * DAY + self._wait(DAY)
            self._plan(later, wire.refund(self._id(), later, visit, item_id, order_id))
        if self._chance(_REVIEW):
            self._review(time + DAY // 2 + self._wait(DAY), visit, slot, liking)
        if self._chance(_MESSAGE_AFTER_PURCHASE):
            intents = ("order_status", "return", "complaint", "thanks")
            intent = intents[int(np.searchsorted((0.5, 0.65, 0.8), rng.random()))]
            self._message(time + HOUR + self._wait(DAY), visit, slot, intent)

    def _noun(self, slot: int) -> str:
        return NOUNS[int(self._items.category[slot])][0]

    def _review(self, time: int, visit: Visit, slot: int, liking: float) -> None:
        rng = self._rng
        joy = 3.3 + 0.9 * float(self._items.quality[slot]) + 2.0 * liking + 0.8 * rng.normal()
        rating = int(np.clip(round(joy), 1, 5))
        tone = "positive" if rating > 3 else "neutral" if rating == 3 else "negative"
        text = REVIEWS[tone][int(rng.integers(len(REVIEWS[tone])))].format(noun=self._noun(slot))
        item_id = self._items.ids[slot]
        self._plan(time, wire.review(self._id(), time, visit, item_id, rating, text))

    def _message(self, time: int, visit: Visit, slot: int, intent: str) -> None:
        sentiment, texts = MESSAGES[intent]
        text = texts[int(self._rng.integers(len(texts)))].format(noun=self._noun(slot))
        self._plan(time, wire.service_message(self._id(), time, visit, text, intent, sentiment))


def _with_poison(records: Iterator[Simulated], share: float, seed: int) -> Iterator[Simulated]:
    rng, number = np.random.Generator(np.random.PCG64(seed)), 0
    for record in records:
        yield record
        # After each good record with share / (1 - share): then `share` of all records are bad.
        if rng.random() < share / (1.0 - share):
            yield poisoned(number, record)
            number += 1


def simulate(scenario: str, events: int, seed: int) -> Iterator[Simulated]:
    """The first `events` records of a shop, in time order; a longer run starts with a shorter one.

    A pure function of its arguments. Raises KeyError for an unknown scenario.
    """
    shop = SCENARIOS[scenario]
    rng = np.random.Generator(np.random.PCG64([hash64(shop.honest or scenario), seed]))
    records = Shop(shop, rng).run()
    if shop.poison_share:
        records = _with_poison(records, shop.poison_share, hash64(f"poison {seed}"))
    if shop.attackers:
        records = attacked(records, shop.attackers, hash64(f"attack {seed}"))
    return itertools.islice(records, events)
