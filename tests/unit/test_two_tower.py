"""Learned vectors: the gradient against autograd, the frequency of items, what is found, and going on after a stop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stream_mtl.config import Config
from stream_mtl.config import Features as Features
from stream_mtl.config import Retrieval as Settings
from stream_mtl.events import AnyEvent, Click, Item
from stream_mtl.hashing import mix64
from stream_mtl.in_batch_softmax import gradients
from stream_mtl.item_frequency import ItemFrequency
from stream_mtl.retrieval import SOURCES, Retrieval
from stream_mtl.shop import Shop
from stream_mtl.state import digest
from stream_mtl.two_tower import TwoTower

SETTINGS = Settings(dim=16, rows=512, batch=16, again=48, memory=256, first_steps=2, candidates=8)
GROUPS, OF_GROUP = 6, 10


def click(user: str, item: str, time_ms: int, domain: str = "d") -> Click:
    return Click(
        event_id=f"{user}{item}{time_ms}",
        time_ms=time_ms,
        user_id=user,
        item_id=item,
        domain=domain,
        query="",
    )


def visits(sessions: int, seed: int, start: int = 1) -> list[AnyEvent]:
    """Every session stays within one of six groups of ten items; nothing but ids tells the groups."""
    random = np.random.default_rng(seed)
    events: list[AnyEvent] = []
    for session in range(sessions):
        group = random.integers(GROUPS)
        for item in random.permutation(OF_GROUP)[:4]:
            time_ms = start + len(events)
            events.append(click(f"u{seed}-{session}", f"g{group}-{item}", time_ms))
    return events


def learned(events: list[AnyEvent], settings: Settings = SETTINGS) -> tuple[Shop, TwoTower]:
    shop = Shop(Features(), 0)
    towers = TwoTower(shop, settings, seed=3)
    for start in range(0, len(events), 40):
        shop.apply(events[start : start + 40])
        towers.learn()
    return shop, towers


# ---- the loss


def test_the_written_gradient_is_the_one_of_autograd() -> None:
    """An independent statement of the loss: normalised, temperature, logQ, accidental hits masked."""
    random = np.random.default_rng(1)
    raw_KD, map_DD = random.normal(size=(7, 5)), random.normal(size=(5, 5))
    near_NK = random.uniform(size=(6, 7)) * (random.uniform(size=(6, 7)) < 0.5)
    near_NK[:, 0] += 0.1
    target_N, log_p_N = np.array([0, 3, 3, 5, 6, 0]), np.log(random.uniform(0.05, 0.9, 6))
    found_KD, found_DD = gradients(raw_KD, map_DD, near_NK, target_N, log_p_N, 0.2)

    raw, map_ = torch.tensor(raw_KD, requires_grad=True), torch.tensor(map_DD, requires_grad=True)
    item = F.normalize(raw, dim=1)
    user = F.normalize(torch.tensor(near_NK) @ item @ map_, dim=1)
    logit = user @ item[target_N].T / 0.2 - torch.tensor(log_p_N)
    for i in range(6):
        for j in range(6):
            if i != j and target_N[i] == target_N[j]:
                logit = logit.index_put(
                    (torch.tensor(i), torch.tensor(j)), torch.tensor(-1e30).double()
                )
    torch.autograd.backward(F.cross_entropy(logit, torch.arange(6)))
    assert raw.grad is not None
    assert map_.grad is not None
    np.testing.assert_allclose(found_KD, raw.grad.numpy(), atol=1e-6)
    np.testing.assert_allclose(found_DD, map_.grad.numpy(), atol=1e-6)


# ---- how often an item comes up


def test_in_a_uniform_stream_the_probability_is_batch_size_over_items() -> None:
    """The property that Yi et al. prove; the usual gap given is wrong by four, so it has to be learned."""
    items, batch, random = 400, 20, np.random.default_rng(0)
    key_I = mix64(np.arange(items))
    frequency = ItemFrequency(alpha=0.02, buckets=8_192)
    for _ in range(8_000):
        frequency.observe(key_I[random.choice(items, batch, replace=False)], items / batch / 4)
    assert frequency.probability(key_I).mean() == pytest.approx(batch / items, rel=0.1)


def test_an_item_that_comes_ten_times_as_often_is_told_apart() -> None:
    random, frequency = np.random.default_rng(0), ItemFrequency(alpha=0.05, buckets=4_096)
    key_I = mix64(np.arange(100))
    for turn in range(3_000):
        rare = random.integers(1, 100, 4)
        frequency.observe(key_I[np.append(rare, 0) if turn % 2 else rare], 20)
    often, *seldom = frequency.probability(key_I)
    assert often == pytest.approx(0.5, rel=0.05)
    assert np.mean(seldom) == pytest.approx(4 / 99, rel=0.25)


def test_an_item_seen_once_is_as_frequent_as_in_a_uniform_stream() -> None:
    frequency = ItemFrequency(alpha=0.05, buckets=64)
    for _ in range(50):
        frequency.observe(np.array([5]), 25)
    frequency.observe(np.array([9]), 25)
    assert frequency.probability(np.array([9])) == pytest.approx(1 / 25)
    left = 0.95**49  # of the first gap after 49 gaps of one, as the paper has it
    assert frequency.probability(np.array([5])) == pytest.approx(1 / (25 * left + 1 - left))


def test_a_collision_does_not_make_a_rare_item_frequent() -> None:
    """Two arrays, the greater gap counts; beside it one array alone, which is fooled."""
    frequency = ItemFrequency(alpha=0.1, buckets=32)
    places = [frequency._places(np.arange(4_000), array) for array in range(2)]
    same = (places[0] == places[0][0]) & (places[1] != places[1][0])
    other = int(np.flatnonzero(same)[0])
    for turn in range(300):
        frequency.observe(np.array([0] if turn % 30 == 0 else [other]), 10)
    alone = 1 / frequency._gap_AH[0, places[0][0]]
    assert frequency.probability(np.array([0])) < 0.1 < 0.5 < alone


# ---- what is learned


def shares(shop: Shop, towers: TwoTower) -> tuple[float, float]:
    """Of the five nearest to someone who saw one item: of its group; at random it would be 9 / 59."""
    slot_I = np.arange(shop.items.used)
    group_I = np.array([int(name[1]) for name in shop.item_ids(slot_I)])
    cosine_II = towers.users(slot_I[:, None]) @ towers.items().T
    np.fill_diagonal(cosine_II, -2)
    near_I5 = np.argsort(-cosine_II, axis=1)[:, :5]
    return float((group_I[near_I5] == group_I[:, None]).mean()), 9 / 59


def test_items_of_one_kind_of_session_find_each_other() -> None:
    found, chance = shares(*learned(visits(1_200, 1)))
    assert found > 0.9
    untrained, _ = shares(
        *learned(visits(2, 1) + visits(600, 2), SETTINGS.model_copy(update={"batch": 4_000}))
    )
    assert untrained < chance + 0.1, "it is the learning that finds them"


def test_the_correction_keeps_popular_items_from_being_pushed_away() -> None:
    """One item follows every visit. Without logQ it is everybody's negative, and its cosines fall."""

    def cosine_of_popular(alpha_on: bool) -> float:
        random = np.random.default_rng(5)
        events: list[AnyEvent] = []
        for n in range(1_500):
            a, b = random.integers(200, size=2)
            follow = "hit" if random.uniform() < 0.3 else f"i{b}"
            events += [click(f"u{n}", f"i{a}", 2 * n + 1), click(f"u{n}", follow, 2 * n + 2)]
        shop = Shop(Features(), 0)
        towers = TwoTower(shop, SETTINGS, seed=3)
        if not alpha_on:
            towers._frequency.probability = lambda key_N: np.ones(len(key_N))  # type: ignore[method-assign]
        for start in range(0, len(events), 40):
            shop.apply(events[start : start + 40])
            towers.learn()
        slots = shop.item_slots([f"i{k}" for k in range(200)])
        hit = shop.item_slots(["hit"])
        cosine_U = towers.users(slots[:, None]) @ towers.items()[hit[0]]
        return float(cosine_U.mean())

    assert cosine_of_popular(True) > cosine_of_popular(False) + 0.1


def test_a_new_item_stands_near_its_like_at_once() -> None:
    shop, towers = learned(visits(50, 1))
    announced = [
        Item(event_id=f"n{k}", time_ms=10_000, item_id=f"n{k}", category=c, brand="b", domain="d")
        for k, c in enumerate(["shoes", "shoes", "lamps"])
    ]
    shop.apply(announced)
    one, alike, other = towers.items()[shop.item_slots(["n0", "n1", "n2"])]
    assert one @ alike > 0.9 > one @ other


def test_a_stranger_has_no_vector_and_gets_no_learned_candidates() -> None:
    shop, towers = learned(visits(400, 1))
    assert not towers.users(np.full((1, 30), -1)).any()
    retrieval = Retrieval(shop, Config(retrieval=SETTINGS), towers)
    bit = 1 << SOURCES.index("learned")
    named_UC = retrieval.for_users(np.array([-1, 0])).named_UC
    assert not (named_UC[0] & bit).any()
    assert (named_UC[1] & bit).any()


def test_learned_candidates_are_of_the_users_domain_and_on_offer() -> None:
    events = visits(300, 1) + [click(f"z{k}", f"other{k % 9}", 5_000 + k, "e") for k in range(90)]
    shop, towers = learned(events)
    gone = "g0-1"
    shop.apply([Item(event_id="w", time_ms=9_000, item_id=gone, withdrawn=True)])
    shop.apply([click("me", "g0-0", 9_001)])
    view = Retrieval(shop, Config(retrieval=SETTINGS), towers).view(shop.user_slots(["me"]))
    _, item_K = Retrieval(shop, Config(retrieval=SETTINGS), towers)._of_vectors(view)
    found = shop.item_ids(item_K)
    assert len(found) == SETTINGS.candidates
    assert gone not in found
    assert not [name for name in found if name.startswith("other")]


def test_an_index_of_learned_vectors_follows_them() -> None:
    """Beside exact search over the same shop, while both learn: every step moves items and users."""
    indexed = SETTINGS.model_copy(update={"search": "ivf", "index_from": 1, "probes": 1_000})
    shops, retrievals = [], []
    for settings in (SETTINGS, indexed):
        shop = Shop(Features(), 0)
        towers = TwoTower(shop, settings, seed=3)
        shops.append(shop)
        retrievals.append(Retrieval(shop, Config(retrieval=settings), towers))
    events, found = visits(300, 1), 0
    for start in range(0, len(events), 100):
        near = []
        for shop, retrieval in zip(shops, retrievals, strict=True):
            shop.apply(events[start : start + 100])
            assert retrieval.towers is not None
            retrieval.towers.learn()
            view = retrieval.view(np.arange(shop.users.slots.used)[-30:])
            row_K, item_K = retrieval._of_vectors(view)
            user_UD, item_ND = retrieval.towers.users(view.history_UH), retrieval.towers.items()
            cosine_K = (user_UD[row_K] * item_ND[item_K]).sum(1)
            near.append(
                cosine_K[np.lexsort((cosine_K, row_K))]
            )  # two that are as near may change places
        assert len(near[0]) == len(near[1]), start
        assert np.allclose(*near, atol=1e-5), start
        found += len(near[0])
    assert found > 1_000


# ---- state


@pytest.mark.parametrize("stop", [0, 1, 37, 200, 399])
def test_after_a_stop_anywhere_it_goes_on_to_the_bit(stop: int) -> None:
    def step(shop: Shop, towers: TwoTower, events: list[AnyEvent]) -> None:
        for event in events:
            shop.apply([event])
            towers.learn()
            towers.users(shop.users.columns.item[:1])

    events = visits(100, 7)
    shop, whole = Shop(Features(), 0), None
    whole = TwoTower(shop, SETTINGS, 3)
    step(shop, whole, events[:stop])
    again = Shop(Features(), 0)
    again.restore(shop.state())
    resumed = TwoTower(again, SETTINGS, 3)
    resumed.restore({k: v.clone() if hasattr(v, "clone") else v for k, v in whole.state().items()})
    assert digest(resumed.state()) == digest(whole.state())
    step(shop, whole, events[stop:])
    step(again, resumed, events[stop:])
    assert whole.steps > 3
    assert digest(resumed.state()) == digest(whole.state())


def test_another_seed_is_another_model() -> None:
    shop = Shop(Features(), 0)
    assert digest(TwoTower(shop, SETTINGS, 1).state()) != digest(
        TwoTower(shop, SETTINGS, 2).state()
    )


def test_what_an_erased_user_did_teaches_no_more() -> None:
    settings = SETTINGS.model_copy(update={"batch": 200})
    with_, without = (Shop(Features(), 0) for _ in range(2))
    towers = [TwoTower(shop, settings, 3) for shop in (with_, without)]
    mine = [click("me", f"g{k % 6}-{k % 10}", 9_000 + k) for k in range(20)]
    for shop, tower in zip((with_, without), towers, strict=True):
        shop.apply([*visits(20, 1), *mine])
        tower.learn()
    hash_ = int(with_.users.slots.hashed[with_.user_slots(["me"])[0]])
    assert (towers[0]._visits.user == hash_).sum() == len(mine) - 1
    towers[0].erase(hash_)
    kept = towers[0]._visits
    assert not (kept.user == hash_).any()
    for shop, tower in zip((with_, without), towers, strict=True):
        shop.apply(visits(60, 2, start=20_000))
        tower.learn()
    assert towers[0].steps == towers[1].steps == 1
    assert digest(towers[0].state()) != digest(towers[1].state())


def test_a_visit_of_an_item_whose_slot_has_changed_hands_is_left_out() -> None:
    """Its vector would else be pulled to where its predecessor stood."""
    settings = SETTINGS.model_copy(update={"batch": 40, "again": 0})
    shop = Shop(Features(max_items=64), 0)
    towers = TwoTower(shop, settings, 3)
    shop.apply(visits(10, 1))
    towers.learn()
    taken = towers._waiting
    before = shop.items.slots.generation[: shop.items.used].copy()
    shop._let_items_go(np.arange(shop.items.used))
    shop.apply(visits(4, 1, start=10_000))
    assert (shop.items.slots.generation[: len(before)] > before).any()
    table = towers._table_RD.copy()
    towers.learn()  # the batch is full: ten old sessions count for nothing
    assert towers.steps == 1
    assert taken > 20
    moved = np.flatnonzero((table != towers._table_RD).any(1))
    names = [n for n in shop.items.slots.names if n]
    own = {
        int(mix64(shop.items.slots.hashed[shop.item_slots([n])])[0] % settings.rows) for n in names
    }
    assert set(moved.tolist()) <= own
