"""Lists scored side by side say what their whole rows say, whatever the model, and every feature is on the right side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from stream_mtl.config import Config
from stream_mtl.description import OF_ITEM, OF_READER
from stream_mtl.events import AnyEvent, Click, Item
from stream_mtl.features import Features
from stream_mtl.learner import Learner
from stream_mtl.lists import Lists
from stream_mtl.models import MODELS
from stream_mtl.retrieval import Retrieval
from stream_mtl.shop import Shop
from stream_mtl.sides import Sided

WORDS = ("red", "blue", "shoe", "coat", "lamp", "warm", "light")
CPU = torch.device("cpu")
Settings = dict[str, Any]


def events(count: int = 400, items: int = 40, users: int = 9) -> list[AnyEvent]:
    """A catalogue over three domains, some of it without title or price, and clicks on it."""
    random = np.random.default_rng(4)
    told: list[AnyEvent] = [
        Item(
            event_id=f"c{n}",
            time_ms=1,
            item_id=f"i{n}",
            title=" ".join(random.choice(WORDS, 3)) if n % 7 else None,
            category=f"k{n % 4}",
            brand=f"b{n % 5}",
            domain=f"d{n % 3}",
            price=float(n) if n % 6 else None,
        )
        for n in range(1, items)
    ]
    for k in range(count):
        item = int(random.integers(1, items))
        told.append(
            Click(
                event_id=f"e{k}",
                time_ms=1_000 * k + 2,
                user_id=f"u{random.integers(users)}",
                item_id=f"i{item}",
                domain=f"d{item % 3}",
                query=str(random.choice(WORDS)) if k % 3 else None,
            )
        )
    return told


def asked(settings: Settings) -> tuple[Features, Learner, Lists, Lists]:
    """A model that has learned a little, and lists of users and of queries."""
    config = Config.model_validate({"features": {"table_rows": 4_096}, **settings})
    shop = Shop(config.features, 8)
    features = Features(shop, Retrieval(shop, config), config)
    shop.apply(events())
    waiting = shop.pending_texts(1_000)
    random = torch.Generator().manual_seed(1)
    shop.set_vectors(waiting, torch.randn(len(waiting), 8, generator=random).numpy())
    slot_U = shop.user_slots([f"u{n}" for n in range(9)])
    users = features.lists("user", features.retrieval.for_users(slot_U))
    slot_U = shop.query_slots(list(WORDS))
    queries = features.lists("query", features.retrieval.for_queries(slot_U))
    learner = Learner(features.spec, config, CPU)
    with torch.no_grad():  # heads start at zero: as if it had learned
        for parameter in learner.serving.model.named_parameters():
            parameter[1].add_(0.1 * torch.randn(parameter[1].shape, generator=random))
    return features, learner, users, queries


@pytest.mark.parametrize(
    "model",
    [
        *({"name": name} for name in sorted(MODELS)),
        {"interactions": "fm"},
        {"interactions": "dcn"},
        {"domain_gates": True},
        {"private_fields": ["item"]},
    ],
    ids=lambda model: "-".join(map(str, model.values())),
)
def test_lists_are_scored_as_their_whole_rows_are(model: Settings) -> None:
    """Of users and of queries, titles and queries included; ranked, and in any place of a list."""
    features, learner, *kinds = asked({"model": model})
    for lists in kinds:
        said, whole = learner.predict(lists), learner.predict(lists.whole(features.spec))
        assert said.prob_BT.std() > 0.01
        torch.testing.assert_close(said.logit_BC, whole.logit_BC, rtol=1e-4, atol=1e-5)
        assert said.extra.keys() == whole.extra.keys()
        ranked = learner.predict(lists, ranking=True).logit_BC
        expected = learner.predict(lists.whole(features.spec), ranking=True).logit_BC
        torch.testing.assert_close(ranked, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mmoe", "shared_bottom"])
def test_the_models_of_most_shops_are_scored_side_by_side(name: str) -> None:
    """Else the test above would compare a thing with itself."""
    assert isinstance(asked({"model": {"name": name}})[1].serving.model, Sided)


def test_a_shop_without_items_gives_no_scores() -> None:
    """A reader whose list is empty."""
    config = Config()
    shop = Shop(config.features, 8)
    features = Features(shop, Retrieval(shop, config), config)
    lists = features.lists("user", features.retrieval.for_users(shop.user_slots(["u"])))
    assert Learner(features.spec, config, CPU).predict(lists).prob_BT.shape == (0, 3)


def test_what_is_said_to_be_of_one_side_is_the_same_in_all_its_rows() -> None:
    """Else a list would be scored by the features of another one of its rows."""
    features, _, *kinds = asked({})
    fields = features.spec.dense_fields
    for lists in kinds:
        dense_BD = lists.pairs.dense_BD
        for names, first, of_B in (
            (OF_READER, lists.first_U, lists.reader_B),
            (OF_ITEM, lists.first_I, lists.item_B),
        ):
            columns = [fields.index(name) for name in names if name in fields]
            assert torch.equal(dense_BD[:, columns], dense_BD[first][of_B][:, columns]), names
    others = [fields.index(name) for name in fields if name not in (*OF_READER, *OF_ITEM)]
    users = kinds[0].pairs.dense_BD[:, others]
    assert (users.std(0) > 0).sum() > len(others) / 2, "the shop is too simple to tell"
