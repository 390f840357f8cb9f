"""Features: as of the exposure, never after; negatives and their correction; snapshots and restore."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from stream_mtl.batch import Batch
from stream_mtl.config import Config, Scoring
from stream_mtl.config import Features as Settings
from stream_mtl.events import AnyEvent, Click, Exposure, Impression, Item, Outcome, Shown
from stream_mtl.features import Features
from stream_mtl.hashing import hash64
from stream_mtl.retrieval import Retrieval
from stream_mtl.shop import Shop
from stream_mtl.state import State, digest

CONFIG = Config(features=Settings(negatives=5, uniform_negatives=4), scoring=Scoring(candidates=20))


def click(user: str, item: str, time_ms: int) -> Click:
    return Click(
        event_id=f"{user}{item}{time_ms}", time_ms=time_ms, user_id=user, item_id=item, domain="d"
    )


def exposure(
    name: str, user: str, items: Sequence[str], time_ms: int, bare: bool = False
) -> Exposure:
    shown = tuple(Shown(item_id=i, position=p) for p, i in enumerate(items, 1))
    return Exposure(
        exposure_id=name,
        user_id=user,
        time_ms=time_ms,
        items=shown,
        domain="d",
        needs_negatives=bare,
    )


def outcome(
    e: Exposure, clicks: Sequence[float | None], revision: int = 0, **more: bool
) -> Outcome:
    return Outcome(
        exposure_id=e.exposure_id,
        user_id=e.user_id,
        revision=revision,
        time_ms=e.time_ms,
        labels={"click": tuple(clicks)},
        **more,
    )


def random_clicks(
    n: int, users: int = 12, items: int = 60, seed: int = 0, start: int = 1
) -> list[AnyEvent]:
    rng = np.random.default_rng(seed)
    pairs = zip(
        rng.integers(users, size=n), (rng.pareto(1.0, n) * 5).astype(int) % items, strict=True
    )
    return [click(f"u{u}", f"i{i}", start + 1000 * k) for k, (u, i) in enumerate(pairs)]


def made(
    config: Config = CONFIG, events: Sequence[AnyEvent] = (), text_dim: int = 0
) -> tuple[Shop, Features]:
    shop = Shop(config.features, text_dim)
    features = Features(shop, Retrieval(shop, config), config)
    shop.apply(events)
    return shop, features


def cloned(state: State) -> State:
    return {n: v.clone() if isinstance(v, torch.Tensor) else v for n, v in state.items()}


def equal(one: Batch, other: Batch) -> bool:
    return all(
        torch.equal(getattr(one, n).nan_to_num(), getattr(other, n).nan_to_num())
        for n in one.__slots__
    )


def separation(features: Features, shop: Shop, too_early: bool) -> float:
    """How well "the user's newest item" tells clicked from unclicked rows: 0.5 is not at all."""
    own = features.spec.dense_fields.index("own")
    clicked, unclicked = [], []
    for k in range(60):
        shown = exposure(f"e{k}", f"new{k}", ["i1", "i2"], 10_000_000 + k)
        if too_early:
            shop.apply([click(shown.user_id, "i1", shown.time_ms)])
        features.open([shown])
        if not too_early:
            shop.apply([click(shown.user_id, "i1", shown.time_ms)])
        row = features.rows([outcome(shown, (1.0, 0.0), closed=True)]).batch
        clicked.append(float(row.dense_BD[0, own]))
        unclicked.append(float(row.dense_BD[1, own]))
    return float(
        np.mean(np.greater(clicked, unclicked)) + np.mean(np.equal(clicked, unclicked)) / 2
    )


def test_features_are_as_of_the_exposure_and_hold_no_outcome_of_their_own() -> None:
    """The naive order (events first) gives the label away; ours does not."""
    for too_early, expected in ((True, 1.0), (False, 0.5)):
        shop, features = made(events=random_clicks(200))
        assert separation(features, shop, too_early) == expected


def test_rows_are_the_ones_that_were_opened_whatever_happens_meanwhile() -> None:
    shop, features = made(events=random_clicks(200))
    shown = exposure("e", "u1", ["i1", "i2", "unheard"], 300_000)
    opened = features.open([shown])
    features.served(torch.arange(9).reshape(3, 3) / 10)
    shop.apply(random_clicks(300, seed=1, start=300_000))
    rows = features.rows([outcome(shown, (0.0, 1.0, None))])
    assert torch.equal(rows.batch.dense_BD, opened.dense_BD[:2])
    assert torch.equal(rows.batch.sparse_BF, opened.sparse_BF[:2])
    assert torch.equal(rows.served_BC, torch.arange(6).reshape(2, 3) / 10)
    assert rows.batch.label_BT[:, 0].tolist() == [0.0, 1.0]
    assert rows.batch.mask_BT.tolist() == [[True, False, False]] * 2
    assert rows.batch.position_B.tolist() == [1, 2]
    assert set(rows.batch.user_key_B.tolist()) == {hash64("u1", "user")}


def test_dense_values_are_finite_and_small_and_ids_are_in_the_table() -> None:
    _shop, features = made(
        events=[Item(event_id="i", time_ms=1, item_id="i1", price=0.0), *random_clicks(300)]
    )
    everything = [
        exposure(f"e{k}", f"u{k % 15}", [f"i{j}" for j in range(k, k + 9)], 400_000)
        for k in range(40)
    ]
    rows = features.open(everything)
    assert rows.dense_BD.isfinite().all()
    assert rows.dense_BD.abs().max() <= 4
    assert rows.sparse_BF.min() >= 0
    assert rows.sparse_BF.max() < features.spec.table_rows
    assert rows.dense_BD.shape[1] == len(features.spec.dense_fields)
    varying = rows.dense_BD.std(0) > 0
    assert varying.sum() > 20


def test_a_bare_click_gets_negatives_that_never_hold_the_clicked_item() -> None:
    _shop, features = made(events=random_clicks(400))
    for k in range(30):
        rows = features.open([exposure(f"e{k}", f"u{k % 12}", [f"i{k % 9}"], 500_000, bare=True)])
        assert len(rows) == 1 + 5 + 4
        assert len(set(rows.sparse_BF[:, 1].tolist())) == 10
        labelled = features.rows(
            [outcome(exposure(f"e{k}", "", [f"i{k % 9}"], 1), (1.0,), closed=True)]
        ).batch
        assert labelled.label_BT[:, 0].tolist() == [1.0] + [0.0] * 9
        assert labelled.mask_BT[:, 0].all()
        assert not labelled.mask_BT[:, 1:].any()
        assert (labelled.position_B == 0).all()


def test_drawn_negatives_are_the_same_again_and_others_for_another_exposure() -> None:
    _shop, features = made(events=random_clicks(400))
    one, again, other = (
        features.open([exposure(name, "u1", ["i3"], 500_000, bare=True)])
        for name in ("a", "a", "b")
    )
    assert torch.equal(one.sparse_BF, again.sparse_BF)
    assert not torch.equal(one.sparse_BF, other.sparse_BF)


def test_the_sampling_correction_restores_the_odds_of_the_whole_shop() -> None:
    """Weighted by exp(offset), drawn negatives stand for every item but the clicked one, exactly."""
    shop, features = made(events=random_clicks(400))
    sellable = int(shop.items.sellable().sum())
    for k in range(20):
        rows = features.open([exposure(f"e{k}", "u1", [f"i{k}"], 500_000, bare=True)])
        known = int(shop.item_slots([f"i{k}"])[0] >= 0)
        assert float(rows.offset_B[1:].exp().sum()) == pytest.approx(sellable - known, rel=1e-4)
        assert float(rows.offset_B[0]) in rows.offset_B[1:].tolist()  # that of its own stratum


def test_shown_items_need_no_correction() -> None:
    _, features = made(events=random_clicks(50))
    assert not features.open([exposure("e", "u1", ["i1", "i2"], 500_000)]).offset_B.any()


def test_a_correction_holds_the_changed_rows_alone() -> None:
    _, features = made(events=random_clicks(50))
    shown = exposure("e", "u1", ["i1", "i2", "i3"], 500_000)
    features.open([shown])
    features.rows([outcome(shown, (0.0, 0.0, 1.0))])
    rows = features.rows([outcome(shown, (0.0, 1.0, 1.0), revision=1, correction=True)])
    assert len(rows.batch) == 0
    assert rows.corrections.label_BT[:, 0].tolist() == [1.0]
    assert rows.corrections.weight_B.tolist() == [1.0]


@pytest.mark.parametrize("correction", ["none", "ips"])
def test_a_purchase_label_tells_the_click_again_where_a_funnel_corrects_for_it(
    correction: str,
) -> None:
    """Masked, for it is old news; without a correction a masked label is 0."""
    tasks = {name: task.model_dump() for name, task in CONFIG.tasks.items()}
    tasks["purchase"]["correction"] = correction
    settings = Config.model_validate({**CONFIG.model_dump(), "tasks": tasks})
    _, features = made(settings, random_clicks(200))
    e = exposure("e", "u1", ["i1", "i2"], 10**6)
    features.open([e])
    features.rows([outcome(e, [1.0, 0.0])])
    later = replace(outcome(e, []), labels={"purchase": (0.0, 0.0)})
    batch = features.rows([later]).batch
    assert batch.mask_BT[:, :2].tolist() == [[False, True]] * 2
    assert batch.label_BT[:, 0].tolist() == ([1.0, 0.0] if correction == "ips" else [0.0, 0.0])


def test_a_closed_exposure_is_forgotten_and_its_rows_are_used_again() -> None:
    _, features = made(events=random_clicks(50))
    for k in range(50):
        shown = exposure(f"e{k}", "u1", ["i1", "i2"], 500_000 + k)
        features.open([shown])
        assert len(features.rows([outcome(shown, (0.0, 1.0), closed=True)]).batch) == 2
        assert len(features.rows([outcome(shown, (0.0, 1.0))]).batch) == 0
    assert features.snapshots.used == 2
    assert not features.snapshots.rows


def test_a_text_vector_is_left_out_when_its_slot_went_to_another_item() -> None:
    config = Config(features=Settings(max_items=2))
    first = Item(event_id="a", time_ms=1, item_id="a", title="a")
    shop, features = made(config, [first, Item(event_id="b", time_ms=2, item_id="b", title="b")], 2)
    waiting = shop.pending_texts(9)
    shop.set_vectors(waiting, np.ones((2, 2), np.float32))
    shown = exposure("e", "u", ["a", "b"], 3)
    assert features.open([shown]).title_BE.all()
    shop.apply([Item(event_id="c", time_ms=4, item_id="c", title="c")])
    shop.set_vectors(shop.pending_texts(9), np.full((1, 2), 9, np.float32))
    assert shop.item_slots(["a"]).tolist() == [-1]
    assert features.rows([outcome(shown, (0.0, 1.0))]).batch.title_BE.tolist() == [[0, 0], [1, 1]]


def test_an_erased_user_has_no_open_exposure_left() -> None:
    _, features = made(events=random_clicks(50))
    mine, theirs = exposure("e", "u1", ["i1"], 9), exposure("f", "u2", ["i1"], 9)
    features.open([mine, theirs])
    assert features.erase_user("u1") == 1
    assert len(features.rows([outcome(mine, (1.0,))]).batch) == 0
    assert len(features.rows([outcome(theirs, (1.0,))]).batch) == 1
    assert hash64("u1", "user") not in features.state()["columns/user_key"].tolist()


def test_scoring_rows_hold_what_training_rows_held_at_the_same_moment() -> None:
    """Training and serving features of the same pair differ in nothing but the surface's id."""
    shop, features = made(events=random_clicks(300))
    slot_U = shop.user_slots(["u1", "u2"])
    candidates = features.retrieval.for_users(slot_U)
    served = features.lists("user", candidates).whole(features.spec)
    counts = (candidates.item_UC >= 0).sum(1)
    shown = [
        exposure(
            f"e{u}", f"u{u + 1}", shop.item_ids(candidates.item_UC[u, : counts[u]]), shop.now_ms
        )
        for u in range(2)
    ]
    trained = features.open(shown)
    assert torch.equal(served.dense_BD, trained.dense_BD)
    assert torch.equal(served.sparse_BF, trained.sparse_BF)
    torch.testing.assert_close(served.prior_B, trained.prior_B)
    assert (served.position_B == 0).all()
    assert not served.mask_BT.any()


def test_query_lists_are_described_too() -> None:
    shop, features = made(events=random_clicks(100))
    shop.apply(
        [
            Click(
                event_id="q",
                time_ms=200_000,
                user_id="u1",
                item_id="i1",
                query="red shoe",
                domain="d",
            )
        ]
    )
    slots = shop.query_slots(["red shoe"])
    rows = features.lists("query", features.retrieval.for_queries(slots))
    assert len(rows)
    assert rows.pairs.dense_BD[:, features.spec.dense_fields.index("asked")].all()


def test_restored_features_go_on_bit_for_bit() -> None:
    config = Config(features=Settings(negatives=3, max_items=20, max_users=8))
    events = random_clicks(200, items=30)
    pairs = [made(config) for _ in range(2)]
    results: list[list[Batch]] = [[], []]
    for k, event in enumerate(events):
        assert isinstance(event, Click)
        if k == 100:
            old, new = pairs
            (shop, features), (other_shop, other_features) = old, new
            other_shop.restore(cloned(shop.state()))
            other_features.restore(cloned(features.state()))
        for (shop, features), kept in list(zip(pairs, results, strict=True))[: 1 if k < 100 else 2]:
            shown = exposure(f"e{k}", event.user_id, [event.item_id], event.time_ms, bare=k % 3 > 0)
            features.open([shown])
            shop.apply(
                [
                    event,
                    Impression(
                        event_id=f"m{k}", time_ms=event.time_ms, user_id="m", items=shown.items
                    ),
                ]
            )
            late = exposure(f"e{k - 5}", "", [], 1)
            kept.append(features.rows([outcome(late, (1.0,), closed=True)]).batch)
    assert all(equal(a, b) for a, b in zip(results[0][100:], results[1], strict=True))
    (shop, features), (other_shop, other_features) = pairs
    assert digest(shop.state()) == digest(other_shop.state())
    assert digest(features.state()) == digest(other_features.state())


def test_a_click_on_an_item_that_the_shop_did_not_know_gives_no_rows() -> None:
    """No list could have held it and no drawn negative is like it; shown items count all the same."""
    _shop, features = made(events=random_clicks(400))
    bare = exposure("bare", "u1", ["never seen"], 500_000, bare=True)
    shown = exposure("shown", "u1", ["never seen", "i1"], 500_000)
    features.open([bare, shown])
    rows = features.rows([outcome(bare, (1.0,)), outcome(shown, (1.0, 0.0))])
    assert len(rows.batch) == 2
    assert rows.batch.list_key_B.unique().tolist() == [hash64("shown")]
    late = features.rows([outcome(bare, (0.0,), revision=2, correction=True)])
    assert not len(late.corrections)


def test_negatives_from_the_rest_can_come_as_often_as_items_are_clicked() -> None:
    """Popular items are drawn more, with smaller offsets; what is restored draws the same."""
    config = CONFIG.model_copy(
        update={"features": CONFIG.features.model_copy(update={"rest": "clicked"})}
    )
    events = random_clicks(400, users=40, items=200)
    shop, features = made(config, events)
    clicks = [e for e in random_clicks(300, users=40, items=200, seed=5) if isinstance(e, Click)]
    strays = [
        exposure(f"s{n}", e.user_id, [e.item_id], 10**6 + n, True) for n, e in enumerate(clicks)
    ]
    known = [e for e in strays if e.items[0].item_id in shop.items.slots.index]
    for start in range(0, len(known) - 20, 20):
        features.open(known[start : start + 20])
    again = Features(shop, features.retrieval, config)
    again.restore(cloned(features.state()))
    last = known[-20:]
    one, other = features.open(last), again.open(last)
    assert equal(one, other)
    offset_B = one.offset_B
    assert (offset_B > 0).any()
    assert len(offset_B.unique()) > 10  # an offset an item, not one a stratum
