"""The live recall: who is asked about, what counts as found, what is remembered."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import hit_rate
from stream_mtl import build
from stream_mtl import recall as module
from stream_mtl.config import Config
from stream_mtl.config import Features as Settings
from stream_mtl.events import Click, Impression, Purchase, Shown
from stream_mtl.hashing import hash64
from stream_mtl.recall import Recall
from stream_mtl.shop import Shop
from stream_mtl.state import digest
from tests.folds import shop_cuts, small


def click(user: str, item: str, time_ms: int = 1) -> Click:
    return Click(
        event_id=f"{user}{item}{time_ms}",
        time_ms=time_ms,
        user_id=user,
        item_id=item,
        domain="d",
        query="",
    )


def shop_of(*events: Click) -> Shop:
    shop = Shop(Settings(), 0)
    shop.apply(events)
    return shop


@pytest.fixture
def shop() -> Shop:
    return shop_of(*(click(u, i) for u in ("me", "you") for i in ("a", "b", "c", "d")))


def told(shop: Shop, width: int = 3) -> Recall:
    """`me` was given b (from both sources, listed), c (from the second), nothing more."""
    recall = Recall(shop, ("one", "two"), width)
    b, c = shop.item_slots(["b", "c"])
    recall.remember(
        shop.user_slots(["me"]),
        np.array([[b, c, -1]]),
        np.array([[3, 2, 0]], np.uint16),
        np.array([[0]]),
    )
    return recall


def test_a_short_list_is_remembered_alike_by_a_shop_that_was_restored() -> None:
    """What stands beyond the candidates must not show: it was read from the end of the catalogue's arrays, which were longer
    in a shop that grew than in a restored one. (A worker that was killed ended with another state digest, now and then.)"""
    names = ["b", "c", *(f"i{k}" for k in range(700))]
    grown = shop_of(*(click("me", name, k + 1) for k, name in enumerate(names)))
    restored = Shop(Settings(), 0)
    restored.restore(grown.state())
    assert grown.items.slots.capacity == restored.items.slots.capacity
    restored.items.slots.hashed[-1] = 77  # as long arrays end otherwise
    assert told(grown).state()["item"].tolist() == told(restored).state()["item"].tolist()


def test_found_are_candidates_and_of_them_the_listed(shop: Shop) -> None:
    recall = told(shop)
    recall.observe([click("me", "b"), click("me", "c"), click("me", "a")])
    assert recall.take() == {"recall_asked": 3, "recall_found": 2, "recall_listed": 1}
    assert recall.summary() == {
        "asked": 3,
        "candidates": pytest.approx(2 / 3),
        "list": pytest.approx(1 / 3),
        "sources": {"one": pytest.approx(1 / 3), "two": pytest.approx(2 / 3)},
    }
    assert not recall.take(), "counts are taken once"


def test_purchases_count_and_what_is_merely_shown_does_not(shop: Shop) -> None:
    recall = told(shop)
    recall.observe(
        [
            Purchase(event_id="p", time_ms=5, user_id="me", item_id="b", domain="d"),
            Impression(event_id="i", time_ms=6, user_id="me", items=(Shown(item_id="b"),)),
        ]
    )
    assert recall.take()["recall_asked"] == 1


def test_a_repeat_is_no_prediction_within_the_chunk_or_before_it(shop: Shop) -> None:
    recall = told(shop)
    recall.observe([click("me", "d")])  # d is what the history ends with
    assert not recall.take()
    recall.observe([click("me", "b"), click("me", "b"), click("me", "a"), click("me", "b")])
    assert recall.take()["recall_asked"] == 3


def test_strangers_and_users_without_candidates_are_not_asked_about(shop: Shop) -> None:
    recall = told(shop)
    recall.observe([click("you", "b"), click("nobody", "b")])
    assert not recall.take()
    assert recall.summary()["candidates"] is None


def test_an_item_that_is_new_to_the_shop_is_a_miss(shop: Shop) -> None:
    recall = told(shop)
    recall.observe([click("me", "never seen")])
    assert recall.take() == {"recall_asked": 1}


def test_a_newer_list_replaces_the_old_one_wholly(shop: Shop) -> None:
    recall = told(shop)
    d = shop.item_slots(["a"])
    recall.remember(
        shop.user_slots(["me"]), d[:, None], np.array([[1]], np.uint16), np.array([[0]])
    )
    recall.observe([click("me", "c"), click("me", "a")])
    assert recall.take() == {"recall_asked": 2, "recall_found": 1, "recall_listed": 1}


def test_what_is_remembered_is_bounded_and_who_lost_the_place_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PLACES", 4)
    names = [f"u{k}" for k in range(40)]
    shop = shop_of(*(click(name, "x") for name in names), click("other", "y"))
    recall = Recall(shop, ("one",), 1)
    y = shop.item_slots(["y"])
    recall.remember(
        shop.user_slots(names),
        np.repeat(y[:, None], 40, 0),
        np.ones((40, 1), np.uint16),
        np.zeros((40, 1), np.int64),
    )
    recall.observe([click(name, "y", 2) for name in names])
    assert recall.take() == {"recall_asked": 4, "recall_found": 4, "recall_listed": 4}


def test_of_an_erased_user_nothing_is_remembered(shop: Shop) -> None:
    recall = told(shop)
    recall.erase(hash64("you"))
    recall.erase(hash64("me"))
    assert len(recall.state()["place"]) == 0
    recall.observe([click("me", "b")])
    assert not recall.take()


def test_after_a_restart_it_counts_on(shop: Shop) -> None:
    recall, again = told(shop), Recall(shop, ("one", "two"), 3)
    recall.observe([click("me", "b")])
    recall.take()
    again.restore(recall.state())
    assert digest(again.state()) == digest(recall.state())
    for one in (recall, again):
        one.observe([click("me", "c")])
    assert again.take() == recall.take() == {"recall_asked": 1, "recall_found": 1}
    assert again.summary() == recall.summary()


def test_sources_that_are_new_after_a_restart_start_from_nothing(shop: Shop) -> None:
    recall, again = told(shop), Recall(shop, ("two", "three"), 3)
    recall.observe([click("me", "b")])
    recall.take()
    again.restore(recall.state())
    assert again.summary()["sources"] == {"two": 1.0, "three": 0.0}
    again.observe([click("me", "b")])
    assert not again.take(), "the old bits mean something else: they are dropped"


def test_the_fold_tells_what_an_outsider_measures_on_its_outputs() -> None:
    """Every cut is one second of events, so a list counts from the next cut on: as `benchmarks.hit_rate` reads it."""
    config = small(features={"table_rows": 1024})
    config = Config.model_validate(config.model_dump() | {"retrieval": {"learned": True}})
    model = build(config, "test")
    lists: dict[str, list[str]] = {}
    asked = found = 0
    newest: dict[str, str] = {}

    for cut in shop_cuts(config, 2_000):
        events = [json.loads(record.value) for record in cut.records if record.value]
        for event in events:
            if event.get("type") not in hit_rate.ASKED:
                continue
            user, item = event["user_id"], event["item_id"]
            if user in lists and newest.get(user) != item:
                asked += 1
                found += item in lists[user]
            newest[user] = item
        for output in model.step(cut).outputs:
            if output.key.startswith("user:") and output.value:
                entries = json.loads(output.value)["lists"]["home"]
                lists[output.key[5:]] = [entry["item_id"] for entry in entries]
    summary = model.summary()["recall"]
    assert asked > 100
    assert summary["asked"] == pytest.approx(asked, rel=0.1)
    assert summary["list"] == pytest.approx(found / asked, abs=0.03)
    assert summary["candidates"] > summary["list"] > 0
    assert model.totals["recall_asked"] == summary["asked"]
