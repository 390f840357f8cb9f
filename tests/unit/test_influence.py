"""How much of the shop's counts and links one user may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stream_mtl.config import Features
from stream_mtl.events import AnyEvent, Click, Impression, Shown
from stream_mtl.settings_defence import Defence
from stream_mtl.shop import Shop
from stream_mtl.shop.catalogue import CLICKED, SHOWN, SLOW
from stream_mtl.state import digest

DAY, MINUTE = 86_400_000, 60_000
START = 1_000 * DAY
LOUD = "loud"


def click(user: str, item: str, time_ms: int) -> Click:
    return Click(
        event_id=f"{user}{item}{time_ms}", time_ms=time_ms, user_id=user, item_id=item, domain="d"
    )


SAFE: dict[str, Any] = {"user_share": 0.01, "item_burst": 4}


def shop(**defence: Any) -> Shop:
    return Shop(Features(), 0, None, Defence(**{**SAFE, **defence}))


def free() -> Shop:
    return Shop(Features(), 0)


def flood(events: int, users: int = 4_000, seed: int = 0) -> list[AnyEvent]:
    """Every second click is the loud one's: from a popular item to its own, in turn."""
    random, made = np.random.default_rng(seed), list[AnyEvent]()
    for k in range(events):
        time_ms = START + k * MINUTE
        user, item = f"u{random.integers(users)}", f"i{int(40 * random.random() ** 2)}"
        made.append(click(user, item, time_ms))
        mine = f"mine{k // 2 % 10}" if k % 2 else f"i{k // 2 % 3}"
        made.append(click(LOUD, mine, time_ms))
    return made


def clicked(of: Shop, item: str) -> float:
    count = of.items.columns.count[of.items.slots.index[item], CLICKED, SLOW]
    return float(count * of.fadings[SLOW].at(of.now_ms))


def listed(of: Shop, places: int) -> list[str]:
    names = of.items.slots.names
    return [names[slot] for slot in of.items.popular.of(np.array([0]))[0, :places] if slot >= 0]


def test_clicks_of_one_user_do_not_make_items_popular() -> None:
    """The naive shop beside it: there the loud one's items crowd out the others."""
    limited, naive, events = shop(), free(), flood(3_000)
    for one in (limited, naive):
        one.apply(events)
    assert not any(name.startswith("mine") for name in listed(limited, 20))
    assert sum(name.startswith("mine") for name in listed(naive, 20)) >= 5


def test_links_from_popular_items_to_promoted_ones_do_not_come_from_one_user() -> None:
    def linked(of: Shop) -> float:
        table, index = of.items.covisits, of.items.slots.index
        mine = [slot for name, slot in index.items() if name.startswith("mine")]
        weight = table.weight[[index[f"i{k}"] for k in range(3)]]
        own = np.isin(table.slot[[index[f"i{k}"] for k in range(3)]], mine)
        return float((weight * own).sum() / weight.sum())

    limited, naive, events = shop(), free(), flood(3_000, users=300)
    for one in (limited, naive):
        one.apply(events)
    assert linked(naive) > 0.3
    assert linked(limited) < 0.1


def test_an_item_gains_by_each_user_a_few_times_a_day() -> None:
    limited = shop(item_burst=2)
    limited.apply([click("u1", "i1", START + k) for k in range(10)])
    limited.apply([click("u2", "i1", START + k) for k in range(20, 30)])
    assert clicked(limited, "i1") == pytest.approx(4, rel=1e-3)
    limited.apply([click("u1", "i1", START + 2 * DAY + k) for k in range(10)])
    assert clicked(limited, "i1") > 4.7  # what was left of four, and one more


def test_another_item_in_between_does_not_make_a_click_count_again() -> None:
    limited = shop(item_burst=1)
    limited.apply([click("u1", f"i{k % 2}", START + k) for k in range(10)])
    for item in ("i0", "i1"):
        assert clicked(limited, item) == pytest.approx(1, rel=1e-3)


def test_fake_lists_do_not_lower_the_rates_of_others() -> None:
    def shown_of(of: Shop) -> float:
        return float(of.items.columns.count[of.items.slots.index["i1"], SHOWN, SLOW])

    limited, naive = shop(least_events=10), free()
    for one in (limited, naive):
        for k in range(2_000):
            user = LOUD if k % 2 else f"u{k}"
            items = (Shown(item_id="i1" if k % 2 else "i2"),)
            seen = Impression(
                event_id=str(k), time_ms=START + k, user_id=user, items=items, domain="d"
            )
            one.apply([seen])
    assert shown_of(naive) > 900
    assert shown_of(limited) < 30


def test_the_history_is_the_users_own_and_keeps_everything() -> None:
    limited = shop(item_burst=1)
    limited.apply([click("u1", item, START + k) for k, item in enumerate("aabab")])
    user = limited.users.slots.index["u1"]
    names = limited.items.slots.names
    assert [names[slot] for slot in limited.users.columns.item[user, :4]] == ["b", "a", "b", "a"]


def test_an_honest_shop_counts_as_if_there_were_no_limit() -> None:
    events = [one for one in flood(1_500) if one.user_id != LOUD]  # type: ignore[union-attr]
    limited, naive = shop(), free()
    for one in (limited, naive):
        one.apply(events)
    states = [
        {k: v for k, v in one.state().items() if not k.startswith("influence")}
        for one in (limited, naive)
    ]
    assert limited.take_uncounted() == 0
    assert digest(states[0]) == digest(states[1])


def test_a_restored_shop_limits_alike() -> None:
    whole, first, second = shop(), shop(), shop()
    events = flood(400)
    whole.apply(events)
    first.apply(events[:500])
    second.restore(first.state())
    second.apply(events[500:])
    ours, theirs = whole.state(), second.state()
    for name in ("influence/user", "influence/used", "influence/total"):
        assert np.allclose(ours[name], theirs[name])


def test_an_erased_user_is_in_no_influence() -> None:
    limited = shop()
    limited.apply([click("u1", "i1", START), click("u2", "i1", START)])
    limited.erase_user("u1")
    assert len(limited.state()["influence/user"]) == 1
