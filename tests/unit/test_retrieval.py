"""Candidates: what may be shown, what must not be, and in which order."""

from __future__ import annotations

import numpy as np
import pytest

from stream_mtl.config import Config, Scoring
from stream_mtl.config import Features as Settings
from stream_mtl.config import Retrieval as Bought
from stream_mtl.events import AnyEvent, Click, Item, Purchase, Search
from stream_mtl.nearest import nearest
from stream_mtl.retrieval import SOURCES, Retrieval
from stream_mtl.shop import Shop

CONFIG = Config(scoring=Scoring(candidates=20))
DAY = 86_400_000


def click(user: str, item: str, time_ms: int, domain: str = "d", query: str = "") -> Click:
    return Click(
        event_id=f"{user}{item}{time_ms}",
        time_ms=time_ms,
        user_id=user,
        item_id=item,
        domain=domain,
        query=query,
    )


def listed(shop: Shop, user: str) -> list[str]:
    item_UC = Retrieval(shop, CONFIG).for_users(shop.user_slots([user])).item_UC
    return shop.item_ids(item_UC[0][item_UC[0] >= 0])


def shop_of(*events: AnyEvent, text_dim: int = 0) -> Shop:
    shop = Shop(Settings(), text_dim)
    shop.apply(events)
    return shop


def test_what_others_clicked_together_comes_before_what_is_merely_popular() -> None:
    events: list[AnyEvent] = [click(f"p{k}", "hit", k) for k in range(1, 9)]
    events += [click(f"q{k}", i, 10 + k) for k in range(3) for i in ("shoe", "lace")]
    events += [click("me", "shoe", 30)]
    assert listed(shop_of(*events), "me")[:2] == ["lace", "hit"]


def test_a_stranger_gets_what_is_popular_in_the_domain() -> None:
    shop = shop_of(
        click("a", "x", 1), click("b", "x", 2), click("a", "y", 3), click("c", "z", 4, "other")
    )
    retrieval = Retrieval(shop, CONFIG)
    item_UC = retrieval.for_users(np.array([-1]), shop.domain_codes(["d"])).item_UC
    assert shop.item_ids(item_UC[0][item_UC[0] >= 0]) == ["x", "y"]
    slots, demand = retrieval.popular("", 10)
    assert shop.item_ids(slots) == ["x", "z", "y"]
    assert (np.diff(demand) <= 0).all()
    assert shop.item_ids(retrieval.popular("other", 10)[0]) == ["z"]


def test_withdrawn_and_unavailable_items_are_never_candidates() -> None:
    """However strongly they are linked; and they come back when they are offered again."""
    events = [click(f"q{k}", i, 10 + k) for k in range(3) for i in ("a", "b", "c", "d")]
    shop = shop_of(*events, click("me", "a", 20))
    assert {"b", "c", "d"} <= set(listed(shop, "me"))
    shop.apply(
        [
            Item(event_id="1", time_ms=21, item_id="b", withdrawn=True),
            Item(event_id="2", time_ms=21, item_id="c", available=False),
        ]
    )
    assert listed(shop, "me") == ["d"]
    assert "b" not in shop.item_ids(Retrieval(shop, CONFIG).popular("d", 9)[0])
    shop.apply([Item(event_id="3", time_ms=22, item_id="c", available=True)])
    assert set(listed(shop, "me")) == {"c", "d"}


def test_what_was_just_bought_is_not_offered_until_a_day_has_passed() -> None:
    bought = Purchase(event_id="p", time_ms=5, user_id="me", item_id="b", domain="d")
    shop = shop_of(click("o", "b", 1), click("o", "c", 2), bought, click("me", "c", 6))
    assert listed(shop, "me") == []
    shop.apply([click("o", "c", 2 * DAY)])
    assert listed(shop, "me") == ["b"]


def test_where_the_same_is_bought_again_it_is_offered_at_once_and_first() -> None:
    """By a setting of the shop; the item being looked at now stays out."""
    events: list[AnyEvent] = [click(f"p{k}", "hit", k) for k in range(1, 30)]
    for k, item in enumerate(("soap", "tea", "salt")):
        time_ms = 40 + k
        events.append(
            Purchase(event_id=item, time_ms=time_ms, user_id="me", item_id=item, domain="d")
        )
    shop = shop_of(*events, click("me", "seen", 50), click("me", "now", 51))
    again = CONFIG.model_copy(update={"retrieval": Bought(rest_ms=0, rebuy=16)})
    slots = shop.user_slots(["me"])
    item_UC = Retrieval(shop, again).for_users(slots).item_UC
    order = shop.item_ids(item_UC[0][item_UC[0] >= 0])
    assert order[:3] == ["salt", "tea", "soap"]  # bought, newest first
    assert set(order[3:]) == {"hit", "seen"}  # looked at is not bought
    assert set(listed(shop, "me")) == {"hit", "seen"}


def test_an_item_bought_twice_comes_before_one_bought_once_since() -> None:
    shop = shop_of(
        *(
            Purchase(event_id=f"{k}", time_ms=k, user_id="me", item_id=item, domain="d")
            for k, item in enumerate(("tea", "salt", "tea", "soap", "now"), 1)
        )
    )
    again = CONFIG.model_copy(update={"retrieval": Bought(rest_ms=0, rebuy=16)})
    item_UC = Retrieval(shop, again).for_users(shop.user_slots(["me"])).item_UC
    order = shop.item_ids(item_UC[0][item_UC[0] >= 0])
    assert order == ["tea", "soap", "salt"]


def test_the_item_being_looked_at_is_no_candidate_but_those_before_it_are() -> None:
    shop = shop_of(click("me", "a", 1), click("me", "b", 2))
    assert listed(shop, "me") == ["a"]


def test_a_query_gives_what_was_clicked_after_it() -> None:
    shop = shop_of(
        click("z", "other", 1),
        Search(event_id="s", time_ms=2, user_id="a", query="boots", domain="d"),
        click("a", "boot", 3),
        click("b", "wellington", 4, query="boots"),
        click("c", "wellington", 5, query="boots"),
    )
    item_UC = Retrieval(shop, CONFIG).for_queries(shop.query_slots(["boots"])).item_UC
    assert shop.item_ids(item_UC[0][:2]) == ["wellington", "boot"]


def test_never_clicked_titles_near_to_the_recent_ones_are_candidates() -> None:
    """Text reaches the whole catalogue; without vectors the unclicked item cannot be found."""
    events: list[AnyEvent] = [
        Item(event_id=n, time_ms=1, item_id=n, title=n, domain="d") for n in ("near", "far", "seen")
    ]
    with_text, without = shop_of(*events, text_dim=2), shop_of(*events)
    vectors = {"near": (0.9, 0.1), "far": (0.0, 1.0), "seen": (1.0, 0.0)}
    waiting = with_text.pending_texts(9)
    with_text.set_vectors(waiting, np.array([vectors[e.text] for e in waiting], np.float32))
    for shop in (with_text, without):
        shop.apply([click("me", "seen", 2)])
    assert listed(with_text, "me") == ["near"]
    assert listed(without, "me") == []


def test_an_index_follows_titles_that_change_and_items_that_leave() -> None:
    """Beside exact search over the same shop: slots change hands, titles are written anew, nobody is told twice."""
    random = np.random.default_rng(4)
    indexed = Bought(search="ivf", index_from=1, probes=1_000)
    shops = [Shop(Settings(max_items=400), 8) for _ in range(2)]
    exact = Retrieval(shops[0], CONFIG)
    index = Retrieval(shops[1], CONFIG.model_copy(update={"retrieval": indexed}))
    named = 0
    for time_ms in range(1, 41):
        events: list[AnyEvent] = [
            Item(event_id="e", time_ms=time_ms, item_id=f"i{n}", title=f"t{random.integers(500)}")
            for n in random.integers(15 * time_ms, 15 * time_ms + 400, 60)
        ]
        events += [click("me", events[-1].item_id, time_ms)]  # type: ignore[union-attr]
        found = []
        for shop, retrieval in zip(shops, (exact, index), strict=True):
            shop.apply(events)
            waiting = shop.pending_texts(99)
            vectors = [np.random.default_rng(int(e.text[1:])).normal(size=8) for e in waiting]
            shop.set_vectors(waiting, np.array(vectors, np.float32).reshape(-1, 8))
            found.append(retrieval.for_users(shop.user_slots(["me"])))
        assert (found[0].item_UC == found[1].item_UC).all(), time_ms
        assert (found[0].named_UC == found[1].named_UC).all(), time_ms
        named += np.count_nonzero(found[1].named_UC >> SOURCES.index("titles") & 1)
    assert named > 200
    assert shops[1].items.slots.generation.any(), "no slot has changed hands"


def test_one_user_alone_gets_what_she_gets_among_others() -> None:
    rng = np.random.default_rng(0)
    events = [click(f"u{rng.integers(9)}", f"i{rng.integers(40)}", k + 1) for k in range(400)]
    shop = shop_of(*events)
    retrieval, names = Retrieval(shop, CONFIG), [f"u{k}" for k in range(9)]
    together = retrieval.for_users(shop.user_slots(names))
    for row, name in enumerate(names):
        alone = retrieval.for_users(shop.user_slots([name]))
        assert (alone.item_UC[0] == together.item_UC[row]).all()
        assert (alone.prior_UC[0] == together.prior_UC[row]).all()
        valid = together.prior_UC[row][together.item_UC[row] >= 0]
        assert (np.diff(valid) <= 0).all()


def test_no_users_no_candidates_and_an_empty_shop_has_none() -> None:
    shop = Shop(Settings(), 4)
    retrieval = Retrieval(shop, CONFIG)
    assert retrieval.for_users(np.zeros(0, np.int64)).item_UC.shape == (0, 20)
    assert (retrieval.for_users(np.array([-1])).item_UC == -1).all()


@pytest.mark.parametrize("seed", range(6))
def test_the_nearest_are_exactly_the_nearest(seed: int) -> None:
    """However many are close, in a catalogue that is searched by a sampled bound too; ties among them."""
    random = np.random.default_rng(seed)
    cosine_UN = random.normal(0.3, 0.3, (4, 20_000)).astype(np.float32)
    cosine_UN[1, 100:] = -1.0  # few
    cosine_UN[2] = np.sort(cosine_UN[2])  # all in one place of the catalogue
    cosine_UN[3] = np.round(cosine_UN[3], 1)
    row_K, item_K = nearest(cosine_UN, 100, 0.0)
    for row in range(4):
        found = np.sort(cosine_UN[row, item_K[row_K == row]])
        wanted = np.sort(cosine_UN[row][cosine_UN[row] > 0])[-100:]
        np.testing.assert_array_equal(found, wanted)


def shoe(item: str, category: str, price: float) -> Item:
    return Item(event_id=item, time_ms=1, item_id=item, category=category, price=price, domain="d")


def test_of_a_category_what_costs_about_as_much_comes_first() -> None:
    catalogue = [shoe("seen", "shoes", 50), shoe("near", "shoes", 55), shoe("dear", "shoes", 400)]
    catalogue += [shoe("lamp", "lamps", 50)]
    clicks = [click(f"u{k}", i, 2 + k) for k, i in enumerate(["dear", "lamp", "near"])]
    found = listed(shop_of(*catalogue, *clicks, click("me", "seen", 9)), "me")
    assert found == ["near", "dear", "lamp"], "another category is not near, whatever it costs"


def test_a_price_that_is_not_known_is_not_near_to_any() -> None:
    catalogue = [shoe("seen", "shoes", 50), shoe("near", "shoes", 50)]
    catalogue += [Item(event_id="x", time_ms=1, item_id="unpriced", category="shoes", domain="d")]
    clicks = [click(f"u{k}", i, 2 + k) for k, i in enumerate(["unpriced", "near"])]
    found = listed(shop_of(*catalogue, *clicks, click("me", "seen", 9)), "me")
    assert found == ["near", "unpriced"]


def test_what_was_visited_next_is_named_as_such() -> None:
    shop = shop_of(click("a", "x", 1), click("a", "y", 2), click("me", "x", 3))
    candidates = Retrieval(shop, CONFIG).for_users(shop.user_slots(["me"]))
    y = candidates.item_UC[0].tolist().index(shop.item_slots(["y"])[0])
    named = {n for bit, n in enumerate(SOURCES) if candidates.named_UC[0, y] >> bit & 1}
    assert named == {"covisited", "follows", "popular", "rising"}
    assert not candidates.named_UC[candidates.item_UC < 0].any(), "padding has no source"
