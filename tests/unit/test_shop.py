"""The shop's memory: counts, histories, links, expiry, slots, restore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_mtl.config import Features as Settings
from stream_mtl.events import AnyEvent, Click, Impression, Item, Purchase, Refund, Search, Shown
from stream_mtl.shop import Shop
from stream_mtl.shop.catalogue import BOUGHT, CLICKED, SLOW, STEADY
from stream_mtl.shop.leaders import Leaders
from stream_mtl.state import digest

DAY = 86_400_000


def click(user: str, item: str, time_ms: int, domain: str = "d") -> Click:
    return Click(
        event_id=f"{user}{item}{time_ms}",
        time_ms=time_ms,
        user_id=user,
        item_id=item,
        domain=domain,
    )


def item(name: str, time_ms: int, **fields: Any) -> Item:
    return Item(event_id=f"i{name}{time_ms}", time_ms=time_ms, item_id=name, **fields)


def stream(n: int, seed: int = 0) -> list[AnyEvent]:
    """A random small shop of every kind of event that the shop listens to."""
    rng, events = np.random.default_rng(seed), list[AnyEvent]()
    for k in range(n):
        time_ms, user, thing = 1 + k * 60_000, f"u{rng.integers(12)}", f"i{rng.integers(25)}"
        common: dict[str, Any] = {
            "event_id": str(k),
            "time_ms": time_ms,
            "user_id": user,
            "domain": f"d{rng.integers(2)}",
        }
        match rng.integers(6):
            case 0:
                events.append(
                    item(
                        thing,
                        time_ms,
                        title=f"title {rng.integers(4)}",
                        category=f"c{rng.integers(3)}",
                        price=2.0,
                    )
                )
            case 1:
                shown = tuple(Shown(item_id=f"i{j}") for j in rng.integers(0, 25, 3))
                events.append(Impression(**common, items=shown))
            case 2:
                events.append(Search(**common, query=f"q{rng.integers(5)}"))
            case 3:
                events.append(Purchase(**common, item_id=thing))
            case _:
                events.append(Click(**common, item_id=thing))
    return events


def fold(shop: Shop, events: Sequence[AnyEvent], every: int = 7) -> Shop:
    for start in range(0, len(events), every):
        shop.apply(events[start : start + every])
        shop.expire(shop.now_ms)
    return shop


def test_counts_fade_by_half_in_a_half_life() -> None:
    """Two clicks a day apart leave 1.5 clicks with a half-life of a day."""
    shop = Shop(Settings(half_life_ms=DAY), 0)
    shop.apply([click("a", "x", DAY)])
    shop.apply([click("a", "x", 2 * DAY)])
    now = shop.items.columns.count[0, CLICKED, STEADY] * shop.fadings[STEADY].at(2 * DAY)
    assert now == pytest.approx(1.5)


def test_counts_survive_a_gap_of_years_without_overflow() -> None:
    """The landmark moves on: old counts vanish, new ones stay exact and finite."""
    shop = Shop(Settings(half_life_ms=DAY), 0)
    shop.apply([click("a", "x", DAY)])
    shop.apply([click("a", "y", 3_000 * DAY)])
    counts = shop.items.columns.count[:, CLICKED, STEADY] * shop.fadings[STEADY].at(3_000 * DAY)
    assert counts[:2] == pytest.approx([0.0, 1.0])
    assert np.isfinite(shop.items.columns.count).all()


def test_a_click_is_linked_with_the_last_five_other_items_both_ways() -> None:
    """Seven items in a row: the last is linked with the five before it, not with the first."""
    shop = Shop(Settings(), 0)
    shop.apply([click("a", f"i{k}", 1 + k) for k in range(7)])
    slots = shop.item_slots([f"i{k}" for k in range(7)]).tolist()
    assert sorted(s for s in shop.items.covisits.slot[slots[6]].tolist() if s >= 0) == sorted(
        slots[1:6]
    )
    assert slots[6] in shop.items.covisits.slot[slots[1]]
    assert slots[6] not in shop.items.covisits.slot[slots[0]]
    assert shop.items.transitions.slot[slots[5], 0] == slots[6]


def test_links_of_a_chunk_equal_links_added_one_by_one() -> None:
    """Buffering a chunk changes no weight and drops no link."""
    events = [e for e in stream(300) if isinstance(e, Click)]
    whole, single = Shop(Settings(), 0), Shop(Settings(), 0)
    whole.apply(events)
    for event in events:
        single.apply([event])
    for shop in (whole, single):
        order = np.argsort(shop.items.covisits.slot, axis=1, kind="stable")
        shop.items.covisits.slot = np.take_along_axis(shop.items.covisits.slot, order, 1)
        weight = np.take_along_axis(shop.items.covisits.weight, order, 1)
        shop.items.covisits.weight = weight * shop.link_fading.at(shop.now_ms)
    assert (whole.items.covisits.slot == single.items.covisits.slot).all()
    np.testing.assert_allclose(whole.items.covisits.weight, single.items.covisits.weight, rtol=1e-5)


def test_a_refund_takes_the_purchase_back() -> None:
    shop = Shop(Settings(), 0)
    common: dict[str, Any] = {"time_ms": 5, "user_id": "a", "item_id": "x", "order_id": "o"}
    shop.apply([Purchase(event_id="1", **common), Refund(event_id="2", **common)])
    assert shop.items.columns.count[0, BOUGHT].tolist() == [0.0, 0.0, 0.0]
    assert shop.items.popular.of(np.zeros(1, np.int64))[0, 0] == -1


def test_item_fields_are_replaced_one_by_one() -> None:
    """A record without a title or price keeps the ones known."""
    shop = Shop(Settings(), 0)
    shop.apply(
        [item("x", 1, title="Red shoe", price=9.0), item("x", 2, brand="acme", available=False)]
    )
    assert shop.items.titles[0] == "Red shoe"
    assert shop.items.columns.log_price[0] == pytest.approx(np.log(10.0))
    assert not shop.items.columns.offered[0]


def test_a_price_feed_does_not_offer_again_what_is_sold_out() -> None:
    """A record that does not say `available` leaves it; of an item that was withdrawn it says: here again."""
    shop = Shop(Settings(), 0)
    offered = shop.items.columns.offered
    shop.apply([item("x", 1, available=False), item("x", 2, price=9.5)])
    assert not offered[0]
    shop.apply([item("x", 3, available=False, withdrawn=True), item("x", 4, price=9.5)])
    assert offered[0]


def test_a_category_belongs_to_the_item_s_domain_whoever_names_it() -> None:
    """A record with a category alone stays in the domain that the item has."""
    shop = Shop(Settings(), 0)
    shop.apply([item("x", 1, domain="fashion", category="shoes"), item("x", 2, category="shoes")])
    assert shop.items.categories.names[shop.items.columns.category[0]] == "fashion\0shoes"


def test_only_new_titles_and_queries_wait_for_a_vector_in_order() -> None:
    """The queue is first in, first out, bounded by the asker, and skips titles replaced meanwhile."""
    shop = Shop(Settings(), 3)
    shop.apply(
        [
            item("x", 1, title="old"),
            item("y", 1),
            Search(event_id="s", time_ms=2, user_id="a", query="shoe"),
        ]
    )
    shop.apply([item("x", 3, title="new"), item("x", 4, title="new")])
    assert [e.text for e in shop.pending_texts(1)] == ["shoe"]
    assert [e.text for e in shop.pending_texts(9)] == ["new"]
    assert shop.pending_texts(9) == []


def test_a_reused_item_slot_shows_nothing_of_its_former_holder() -> None:
    """Counts, links, histories, title and a vector on its way all stay with the item that left."""
    shop = Shop(Settings(item_ttl_ms=DAY), 2)
    shop.apply([item("old", 1, title="old", price=3.0, category="c"), item("other", 1, title="b")])
    waiting = shop.pending_texts(9)
    shop.apply([click("a", "old", 2), click("a", "other", 3), click("a", "old", 4)])
    old = int(shop.item_slots(["old"])[0])
    shop.apply([click("a", "other", 2 * DAY)])
    shop.expire(2 * DAY)
    assert shop.item_slots(["old"]).tolist() == [-1]
    shop.apply([item("new", 2 * DAY + 1)])
    assert shop.item_slots(["new"]).tolist() == [old]
    shop.set_vectors(waiting, np.ones((len(waiting), 2), np.float32))
    columns = shop.items.columns
    assert not columns.count[old].any()
    assert not columns.vector[old].any()
    assert np.isnan(columns.log_price[old])
    assert columns.category[old] == 0
    assert old not in shop.items.covisits.slot
    assert (shop.items.covisits.slot[old] == -1).all()
    assert old not in shop.users.columns.item
    assert old not in shop.items.popular.slot


def test_when_full_the_longest_untouched_leave_and_users_get_tombstones() -> None:
    shop = Shop(Settings(max_users=3, max_items=3), 0)
    shop.apply([click(f"u{k}", f"i{k}", 1 + k) for k in range(3)])
    shop.apply([click("u0", "i0", 10)])
    shop.apply([click("u9", "i9", 11)])
    assert shop.expire(11) == ["user:u1"]
    assert shop.user_slots(["u0", "u1", "u2", "u9"]).tolist() == [0, -1, 2, 1]
    assert shop.item_slots(["i1"]).tolist() == [-1]


def test_users_and_queries_expire_once() -> None:
    shop = Shop(Settings(user_ttl_ms=10_000, query_ttl_ms=5_000), 0)
    shop.apply([Search(event_id="s", time_ms=1, user_id="a", query="shoe"), click("b", "x", 9_000)])
    assert shop.expire(9_000) == ["query:shoe"]
    assert shop.expire(12_000) == ["user:a"]
    assert shop.expire(12_500) == []


def test_an_erased_user_is_in_no_column_and_no_name_of_the_state() -> None:
    shop = fold(Shop(Settings(), 0), stream(100))
    assert shop.erase_user("u3")
    assert not shop.erase_user("u3")
    state = shop.state()
    assert "u3" not in state["users/slots/names"]
    assert "user:u3" not in state["touched"]
    free = state["users/slots/free"]
    assert (state["users/columns/item"][free] == -1).all()


def test_touched_keys_come_once_in_order_of_first_event() -> None:
    shop = Shop(Settings(), 0)
    shop.apply([click("b", "x", 1), click("a", "x", 2), click("b", "y", 3)])
    assert shop.take_touched() == ["user:b", "popular:", "popular:d", "user:a"]
    assert shop.take_touched() == []


def test_quiet_users_are_those_scored_longest_ago() -> None:
    shop = Shop(Settings(), 0)
    shop.apply([click(u, "x", 1) for u in "abcd"])
    shop.mark_scored(shop.user_slots(["b"]), 5)
    shop.mark_scored(shop.user_slots(["a", "c", "d"]), 9)
    assert shop.quiet_users(2, {"a"}) == ["b", "c"]
    assert shop.quiet_users(0, set()) == []


@pytest.mark.parametrize("cut", [40, 101, 160])
def test_a_restored_shop_goes_on_bit_for_bit(cut: int) -> None:
    """Small limits, so that slots are given up and reused on both sides of the interruption."""
    small = Settings(
        max_items=12, max_users=8, max_queries=3, half_life_ms=3_600_000, history=6, neighbours=4
    )
    events = stream(220)
    whole = Shop(small, 4)
    fold(whole, events[:cut])
    resumed = Shop(small, 4)
    resumed.restore({k: v.clone() if hasattr(v, "clone") else v for k, v in whole.state().items()})
    for shop in (whole, resumed):
        fold(shop, events[cut:])
    assert digest(whole.state()) == digest(resumed.state())
    for name in ("popular", "rising", "of_category"):
        kept, made = getattr(whole.items, name).slot, getattr(resumed.items, name).slot
        rows = min(len(kept), len(made))
        assert (kept[:rows] == made[:rows]).all()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=1, max_size=60),
    st.integers(1, 7),
)
def test_lists_kept_up_to_date_equal_lists_made_anew(
    gains: list[tuple[int, int]], chunk: int
) -> None:
    """Whatever order items gain in, incremental top lists are the exact top lists, ties included."""
    group = np.arange(10) % 3
    score, kept = np.zeros(10), Leaders(3)
    for start in range(0, len(gains), chunk):
        slots = np.unique([slot for _, slot in gains[start : start + chunk]])
        for amount, slot in gains[start : start + chunk]:
            score[slot] += amount
        inside = slots[group[slots] > 0]
        kept.raised(group[inside], inside, score)
    made = Leaders(3)
    made.rebuild(group, score)
    assert (kept.slot[1:3] == made.slot[1:3]).all()


def test_top_lists_leave_out_what_is_not_offered() -> None:
    shop = Shop(Settings(), 0)
    shop.apply(
        [item("x", 1, domain="d"), item("y", 1, domain="d"), click("a", "x", 2), click("a", "y", 2)]
    )
    shop.apply([item("x", 3, withdrawn=True)])
    shop.apply([click("b", "y", 4)])
    assert [s for s in shop.items.popular.of(np.array([1]))[0].tolist() if s >= 0] == [1]
    assert shop.items.columns.score[0, SLOW] == 0
