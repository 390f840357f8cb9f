"""How often items come, and negatives drawn by it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from stream_mtl.clicked_items import ClickedItems
from stream_mtl.frequency import Frequencies
from stream_mtl.hashing import mix64
from stream_mtl.state import State, digest


def zipf(items: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    share_I = 1 / np.arange(1, items + 1)
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = share_I / share_I.sum()
    return found


def test_a_uniform_stream_comes_to_batch_size_over_number_of_items() -> None:
    """The property of Yi et al. 2019: every item's probability to be in a batch."""
    rng, items, batch = np.random.default_rng(0), 400, 20
    frequencies = Frequencies(gap=items / batch)
    for _ in range(4_000):
        frequencies.observe(rng.choice(items, batch, replace=False))
    found_I = frequencies.probability(np.arange(items))
    assert found_I.mean() == pytest.approx(batch / items, rel=0.03)
    assert found_I.std() / found_I.mean() < 1.5 * math.sqrt(0.02 / 2)


def test_frequent_and_rare_items_are_told_apart_whatever_was_thought_first() -> None:
    rng, share_I = np.random.default_rng(1), zipf(50)
    frequencies = Frequencies()
    for item in rng.choice(50, 30_000, p=share_I):
        frequencies.observe(np.array([item]))
    np.testing.assert_allclose(frequencies.probability(np.arange(50)), share_I, rtol=0.5)
    assert np.corrcoef(np.log(frequencies.probability(np.arange(50))), np.log(share_I))[0, 1] > 0.98


def test_a_second_array_takes_most_collisions_away() -> None:
    """Items in few places: with one array a rare item often looks like a frequent one beside it."""
    rng, items = np.random.default_rng(2), 300
    share_I = zipf(items)
    one, two = Frequencies(600, 1), Frequencies(600, 3)
    for item in rng.choice(items, 20_000, p=share_I):
        one.observe(np.array([item]))
        two.observe(np.array([item]))
    rare = np.arange(100, items)
    wrong = [(f.probability(rare) > 3 * share_I[rare]).mean() for f in (one, two)]
    assert wrong[1] < 0.5 * wrong[0]


def test_what_comes_twice_in_a_step_comes_once() -> None:
    once, twice = Frequencies(), Frequencies()
    once.observe(np.array([3, 5]))
    twice.observe(np.array([5, 3, 5, 3]))
    assert digest(once.state()) == digest(twice.state())


def cloned(state: State) -> State:
    return {n: v.clone() if isinstance(v, torch.Tensor) else v for n, v in state.items()}


@pytest.mark.parametrize("stop", [0, 1, 7, 60])
def test_both_go_on_bit_identically_after_a_restore(stop: int) -> None:
    slot_N = np.random.default_rng(3).integers(0, 40, 80)
    whole, first = ClickedItems(), ClickedItems()
    whole.observe(slot_N, mix64(slot_N))
    first.observe(slot_N[:stop], mix64(slot_N[:stop]))
    second = ClickedItems()
    second.restore(cloned(first.state()))
    second.observe(slot_N[stop:], mix64(slot_N[stop:]))
    assert digest(second.state()) == digest(whole.state())
    drawn = [one.draw(99, 6, lambda slot, hashed: True).tolist() for one in (whole, second)]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) > 1


def test_drawn_negatives_stand_for_all_clicks_on_other_items() -> None:
    """Each negative counted 1/w times, an item has as many as there were clicks on others (Horvitz & Thompson 1952).

    Counted alike, as if drawn uniformly, the most popular item would have several times too many.
    """
    rng, items, draws, warm, clicks = np.random.default_rng(4), 30, 3, 4_000, 6_000
    share_I, hash_I = zipf(items), mix64(np.arange(items), 5)
    shop = ClickedItems()
    weighted_I, alike_I, wanted_I = np.zeros(items), np.zeros(items), np.zeros(items)
    for n, item in enumerate(rng.choice(items, warm + clicks, p=share_I).tolist()):
        if n >= warm:
            key = int(mix64(np.array([n]))[0])
            drawn = shop.draw(key, draws, lambda slot, _, item=item: slot != item)  # type: ignore[misc]
            outside = hash_I[[item]]
            weighted_I[drawn] += np.exp(shop.offsets(hash_I[drawn], outside, draws))
            alike_I[drawn] += items / draws
            wanted_I[np.arange(items) != item] += 1
        shop.observe(np.array([item]), hash_I[[item]])
    np.testing.assert_allclose(weighted_I, wanted_I, rtol=0.3)
    assert alike_I[0] > 2.5 * wanted_I[0]
    assert alike_I[-1] < 0.5 * wanted_I[-1]
