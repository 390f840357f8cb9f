"""Where labels of tasks come from: sources, thresholds, profiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.events import AnyEvent, Click, Exposure, Item, Outcome, Profile, Shown
from stream_mtl.features import Features
from stream_mtl.label_join import RATED
from stream_mtl.labels import SOURCES, attributes, joining, readings
from stream_mtl.retrieval import Retrieval
from stream_mtl.shop import Shop
from stream_mtl.shop.profiles import Profiles

TASKS: dict[str, dict[str, Any]] = {
    "click": {"kind": "binary"},
    "long_view": {"kind": "binary", "label": "dwell_ms", "above": 10_000},
    "dwell": {"kind": "regression", "label": "dwell_ms", "log": True},
    "like": {"kind": "binary", "label": "rating", "above": 4},
    "gender": {"kind": "multiclass", "label": "profile.gender", "values": ["f", "m"]},
    "region": {"kind": "multiclass", "label": "profile.region", "classes": 3},
}
CLICK, LONG_VIEW, DWELL, LIKE, GENDER, REGION = range(6)


def made(tasks: dict[str, dict[str, Any]] = TASKS) -> tuple[Shop, Features]:
    config = Config.model_validate(
        {"tasks": tasks, "scoring": {"value": {"click": 1.0}, "search_value": {"click": 1.0}}}
    )
    shop = Shop(config.features, 0, attributes(config.tasks))
    features = Features(shop, Retrieval(shop, config), config)
    events: list[AnyEvent] = [
        Item(event_id=f"i{n}", time_ms=1, item_id=f"i{n}", domain="d") for n in range(30)
    ]
    events += [
        Click(event_id=f"k{n}", time_ms=2 + n, user_id=f"u{n % 3}", item_id=f"i{n}", domain="d")
        for n in range(20)
    ]
    shop.apply(events)
    return shop, features


def shown(*items: str, user: str = "u1", bare: bool = False, surface: str = "home") -> Exposure:
    return Exposure(
        exposure_id="e" + "".join(items) + user,
        user_id=user,
        time_ms=1_000,
        items=tuple(Shown(item_id=i) for i in items),
        domain="d",
        surface=surface,
        needs_negatives=bare,
    )


def outcome(e: Exposure, revision: int = 1, **labels: tuple[float | None, ...]) -> Outcome:
    return Outcome(
        exposure_id=e.exposure_id,
        user_id=e.user_id,
        revision=revision,
        time_ms=2_000,
        labels=labels,
        correction=revision > 1,
    )


def said(kind: str, user: str, value: str) -> Profile:
    return Profile(event_id=user + value, time_ms=500, user_id=user, attributes=((kind, value),))


def test_several_tasks_read_one_source_each_in_its_own_way() -> None:
    _, features = made()
    e = shown("i1", "i2", "i3")
    features.open([e])
    batch = features.rows(
        [outcome(e, click=(1.0, 1.0, 0.0), dwell_ms=(12_000.0, 300.0, None))]
    ).batch
    assert batch.label_BT[:2, LONG_VIEW].tolist() == [1.0, 0.0]
    assert batch.label_BT[:2, DWELL].tolist() == [12_000.0, 300.0]
    assert batch.mask_BT[:, LONG_VIEW].tolist() == [True, True, False]
    assert not batch.mask_BT[:, LIKE].any()


def test_a_drawn_negative_was_not_clicked_but_nobody_knows_how_long_it_would_be_looked_at() -> None:
    _, features = made()
    e = shown("i1", bare=True)
    features.open([e])
    batch = features.rows([outcome(e, click=(1.0,), dwell_ms=(900.0,))]).batch
    assert len(batch) > 5
    assert batch.mask_BT[:, CLICK].all()
    assert batch.label_BT[:, CLICK].sum() == 1
    assert batch.mask_BT[:, DWELL].sum() == 1


def test_a_rating_becomes_a_row_only_where_a_task_learns_it() -> None:
    _, features = made()
    e = shown("i1", surface=RATED)
    assert len(features.open([e])) == 1
    batch = features.rows([outcome(e, rating=(4.0,))]).batch
    assert batch.label_BT[0, LIKE] == 1.0
    assert batch.mask_BT[0].tolist() == [n == LIKE for n in range(6)]
    _, without = made({"click": TASKS["click"]})
    assert len(without.open([e])) == 0
    assert len(without.rows([outcome(e, rating=(4.0,))]).batch) == 0


def test_a_profile_labels_one_row_of_every_exposure_that_follows() -> None:
    """Not one a shown item: what is learned of a user must not depend on how long the lists are."""
    shop, features = made()
    shop.apply(
        [said("gender", "u1", "m"), said("region", "u1", "north"), said("region", "u2", "x")]
    )
    one, two, three = shown("i1", "i2"), shown("i3", user="u2"), shown("i4", user="u0")
    features.open([one, two, three])
    batch = features.rows(
        [outcome(one, click=(0.0, 1.0)), outcome(two, click=(0.0,)), outcome(three, click=(0.0,))]
    ).batch
    assert batch.mask_BT[:, GENDER].tolist() == [True, False, False, False]
    assert batch.label_BT[0, GENDER] == 1.0
    assert batch.mask_BT[:, REGION].tolist() == [True, False, True, False]
    assert batch.label_BT[:, REGION].tolist() == [0.0, 0.0, 1.0, 0.0]
    again = features.rows([outcome(one, 2, click=(1.0, None))])
    assert not again.corrections.mask_BT[:, GENDER].any()


def test_an_erased_user_has_no_profile() -> None:
    shop, _ = made()
    shop.apply([said("gender", "u1", "f")])
    assert shop.profiles.classes(shop.user_slots(["u1"]), "gender").tolist() == [0]
    shop.erase_user("u1")
    shop.apply([Click(event_id="n", time_ms=900, user_id="new", item_id="i1")])
    assert shop.profiles.classes(shop.user_slots(["new", "u1"]), "gender").tolist() == [-1, -1]


def test_values_beyond_the_set_are_unknown_and_a_growing_set_stops_at_its_size() -> None:
    profiles = Profiles({"gender": ("f", "m"), "region": 2})
    for slot, (gender, region) in enumerate([("m", "a"), ("f", "b"), ("other", "c"), ("m", "b")]):
        profiles.learn(slot, (("gender", gender), ("region", region), ("shoe", "42")))
    slot_N = np.arange(4)
    assert profiles.classes(slot_N, "gender").tolist() == [1, 0, -1, 1]
    assert profiles.classes(slot_N, "region").tolist() == [0, 1, -1, 1]
    resumed = Profiles({"gender": ("f", "m"), "region": 2})
    state = {
        name: value.clone() if isinstance(value, torch.Tensor) else value
        for name, value in profiles.state(4).items()
    }
    resumed.restore(state)
    assert resumed.classes(slot_N, "region").tolist() == [0, 1, -1, 1]
    resumed.learn(4, (("region", "a"),))
    assert resumed.classes(np.array([4]), "region").tolist() == [0]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"kind": "binary", "label": "klick"}, "use one of: .*purchase"),
        ({"kind": "binary", "label": "rating"}, "`above`"),
        ({"kind": "multiclass", "classes": 3, "label": "click"}, "regression"),
        ({"kind": "binary", "label": "profile.gender"}, "kind = 'multiclass'"),
        ({"kind": "binary", "label": "click", "window_ms": 5}, "are for purchase and cart"),
    ],
)
def test_a_source_that_does_not_suit_is_refused_with_the_remedy(
    task: dict[str, Any], message: str
) -> None:
    config = Config.model_validate({"tasks": {"t": task}, "scoring": {"value": {}}})
    with pytest.raises(ConfigError, match=message):
        readings(config.tasks)


def test_every_source_says_what_it_is() -> None:
    assert all(source.text for source in SOURCES.values())


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"window_ms": 86_400_000}, "not below join.purchase_window_ms = 86400000, the longest"),
        ({"window_ms": 5, "delay": "fnw"}, "drop one"),
    ],
)
def test_a_window_that_does_not_suit_is_refused_with_the_remedy(
    task: dict[str, Any], message: str
) -> None:
    config = Config.model_validate(
        {"tasks": {"cart": {"kind": "binary", **task}}, "scoring": {"value": {}}}
    )
    with pytest.raises(ConfigError, match=message):
        joining(config.join, config.tasks)
