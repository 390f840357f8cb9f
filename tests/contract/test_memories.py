"""Every memory policy keeps what `memory/base.py` promises, for single rows and for whole lists."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from stream_mtl import memory
from stream_mtl.batch import Batch
from stream_mtl.errors import ConfigError, StateError
from stream_mtl.held import Held, Sample
from stream_mtl.keyed_store import KeyedStore, row_bytes
from stream_mtl.memory import MEMORIES, Memory
from stream_mtl.testing_rows import SPEC
from stream_mtl.testing_rows import rows as random_rows

New = Callable[[int], Any]  # a Memory; tests also look at what only some have
CPU = torch.device("cpu")


def rows(count: int, first: int = 0, list_rows: int = 4) -> Batch:
    """Rows of a list have one event time, that of their exposure."""
    batch = random_rows(count, first=first, list_rows=list_rows)
    return replace(batch, time_B=batch.time_B // (1000 * list_rows) * (1000 * list_rows))


def factory(name: str, whole_lists: bool) -> New:
    task = "search" if whole_lists else "purchase"
    columns = (2,) if whole_lists else (1, 0)
    return lambda size: MEMORIES[name](Held(SPEC, task, columns, whole_lists, 0, CPU), size)


CASES = [
    pytest.param(factory(name, whole), id=f"{name}-{'lists' if whole else 'rows'}")
    for name in MEMORIES
    for whole in (False, True)
]


def logits(batch: Batch) -> Tensor:
    return torch.stack([batch.prior_B, batch.prior_B * 20, batch.prior_B + 1], 1)


def filled(new: New, size: int = 240, count: int = 1000) -> Any:
    held = new(size)
    for first in range(0, count, 100):
        batch = rows(100, first=first)
        held.add(batch, logits(batch), version=first)
    return held


def thresholds(held: Memory) -> list[int]:
    return [
        np.asarray(value).tolist()
        for name, value in held.state().items()
        if "threshold" in name.rsplit("/", 1)[-1]
    ]


def draw(held: Memory, count: int = 40, seed: int = 1) -> Sample:
    sample = held.sample(count, Generator().manual_seed(seed))
    assert sample is not None
    return sample


def same(a: Sample, b: Sample) -> bool:
    pairs = [(getattr(a.batch, f.name), getattr(b.batch, f.name)) for f in fields(Batch)]
    pairs += [(a.logit_RS, b.logit_RS), (a.version_R, b.version_R)]
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("new", CASES)
def test_capacity_holds(new: New) -> None:
    assert 0 < len(filled(new)) <= 240


@pytest.mark.parametrize("new", CASES)
def test_only_its_own_task_is_unmasked(new: New) -> None:
    known_T = draw(filled(new)).batch.mask_BT.sum(0)
    assert (known_T > 0).sum() == 1


@pytest.mark.parametrize("new", CASES)
def test_rows_without_a_known_label_are_not_stored(new: New) -> None:
    held, batch = new(240), rows(100)
    assert held.add(replace(batch, mask_BT=~(batch.mask_BT | True)), logits(batch), 0) == 0
    assert len(held) == 0


@pytest.mark.parametrize("new", CASES)
def test_what_comes_out_is_what_went_in(new: New) -> None:
    """Features, label and clamped logits of a sampled row are those of the row of that key."""
    batch = rows(100)
    held = new(2400)
    held.add(batch, logits(batch), version=7)
    sample = draw(held)
    where = {int(k): i for i, k in enumerate(batch.row_key_B)}
    source = batch.select(torch.tensor([where[int(k)] for k in sample.batch.row_key_B]))
    own = int(sample.batch.mask_BT[0].nonzero())
    for name in ("sparse_BF", "dense_BD", "title_BE", "prior_B", "position_B", "time_B"):
        assert torch.equal(getattr(sample.batch, name), getattr(source, name))
    assert torch.equal(sample.batch.label_BT[:, own], source.label_BT[:, own])
    assert torch.equal(sample.logit_RS[:, 0], logits(source)[:, own].clamp(-10, 10))
    assert (sample.version_R == 7).all()


@pytest.mark.parametrize("new", CASES)
def test_adding_the_same_rows_again_changes_nothing(new: New) -> None:
    once, twice = filled(new), filled(new)
    for first in range(0, 1000, 100):
        batch = rows(100, first=first)
        twice.add(batch, logits(batch), version=first)
    assert same(draw(once), draw(twice))


@pytest.mark.parametrize("new", CASES)
def test_same_seed_gives_the_same_sample(new: New) -> None:
    held = filled(new)
    assert same(draw(held, seed=5), draw(held, seed=5))
    assert not same(draw(held, seed=5), draw(held, seed=6))


@pytest.mark.parametrize("new", CASES)
def test_after_a_state_round_trip_everything_goes_on_alike(new: New) -> None:
    first, second = filled(new), new(240)
    state = {k: v.clone() if isinstance(v, Tensor) else v for k, v in first.state().items()}
    second.restore(state)
    assert same(draw(first), draw(second))
    later = rows(400, first=5000)
    assert first.add(later, logits(later), 3) == second.add(later, logits(later), 3)
    assert same(draw(first), draw(second))


@pytest.mark.parametrize("new", CASES)
def test_state_of_another_size_is_refused(new: New) -> None:
    with pytest.raises(StateError, match="key_U"):
        new(120).restore(filled(new).state())


@pytest.mark.parametrize("new", CASES)
def test_empty_add_changes_nothing(new: New) -> None:
    held, other = filled(new), filled(new)
    assert held.add(rows(0), torch.zeros(0, 3), 0) == 0
    assert same(draw(held), draw(other))


@pytest.mark.parametrize("new", CASES)
def test_nothing_is_drawn_from_an_empty_memory(new: New) -> None:
    assert new(240).sample(10, Generator()) is None


@pytest.mark.parametrize("new", CASES)
def test_erasing_a_user_leaves_no_row_and_no_trace(new: New) -> None:
    held = filled(new, count=300)
    user = int(draw(held).batch.user_key_B.max())  # not 0, which blank slots hold
    before = len(held)
    erased = held.erase(user)
    assert erased > 0
    assert len(held) == before - erased
    columns = [v for name, v in held.state().items() if name.endswith("user_key_B")]
    assert columns
    assert not any((column == user).any() for column in columns)
    assert not (draw(held, 500).batch.user_key_B == user).any()
    assert held.erase(user) == 0


@pytest.mark.parametrize("new", CASES)
def test_erasure_does_not_open_the_door_to_rows_turned_away(new: New) -> None:
    """The threshold never falls: else only rows that come later would fill the gap."""
    before, after = erase_and_offer_again(filled(new))
    assert after == before


def erase_and_offer_again(held: Memory) -> tuple[int, int]:
    """Rows held right after a user was erased, and after everyone else's rows were offered again."""
    user = int(draw(held).batch.user_key_B[0])
    held.erase(user)
    before = len(held)
    for first in range(0, 1000, 100):
        batch = rows(100, first=first)
        others = batch.select(batch.user_key_B != user)
        held.add(others, logits(others), 0)
    return before, len(held)


def test_the_erasure_check_has_power() -> None:
    """A reservoir that forgets its threshold lets later rows into the gap: what the check forbids."""

    class Forgetful(KeyedStore):
        def erase(self, user_key: int) -> int:
            erased = super().erase(user_key)
            self._threshold = -1
            return erased

    held = filled(lambda size: Forgetful(Held(SPEC, "purchase", (1, 0), False, 0, CPU), size))
    before, after = erase_and_offer_again(held)
    assert after > before


@pytest.mark.parametrize("new", CASES)
def test_merged_halves_equal_one_filled_whole(new: New) -> None:
    left, right = new(240), new(240)
    for first in range(0, 1000, 100):
        batch = rows(100, first=first)
        (left if first < 600 else right).add(batch, logits(batch), version=first)
    left.merge(right)
    assert same(draw(left), draw(filled(new)))
    assert thresholds(left) == thresholds(filled(new))


@pytest.mark.parametrize("new", CASES)
def test_shrinking_equals_having_been_small_from_the_start(new: New) -> None:
    assert same(draw(filled(new, 480).resized(120)), draw(filled(new, 120)))


@pytest.mark.parametrize("new", CASES)
def test_growing_keeps_rows_and_capacity(new: New) -> None:
    small = filled(new, 120)
    large = small.resized(480)
    assert same(draw(small), draw(large))


def contents(held: Memory) -> dict[tuple[int, int], Tensor]:
    """Features, label and logits of every row held, by its key and the count of its copy."""
    sample, copies = held.take(np.arange(held.units())), dict[int, int]()
    found = {}
    for i, key in enumerate(sample.batch.row_key_B.tolist()):
        copies[key] = copies.get(key, 0) + 1
        label = sample.batch.label_BT[i].sum().unsqueeze(0)
        found[key, copies[key]] = torch.cat((label, sample.batch.dense_BD[i], sample.logit_RS[i]))
    return found


@pytest.mark.parametrize("new", CASES)
def test_late_labels_are_repaired_in_place(new: New) -> None:
    """Of the rows that stay, the label has turned and nothing else has; rows never seen change nothing."""
    held = filled(new)
    before = contents(held)
    assert held.repair(rows(20, first=9000)) == 0
    whole = rows(1000)
    assert held.repair(replace(whole, label_BT=1 - whole.label_BT)) == len(before)
    after = contents(held)
    assert set(after) <= set(before)
    assert len(after) > 40
    for key, row in after.items():
        assert row[0] == 1 - before[key][0]
        assert torch.equal(row[1:], before[key][1:])


@pytest.mark.parametrize("new", CASES)
def test_order_of_rows_in_the_stream_does_not_decide_who_stays(new: New) -> None:
    forth, back = new(240), new(240)
    firsts = range(0, 1000, 100)
    for held, order in ((forth, firsts), (back, reversed(firsts))):
        for first in order:
            batch = rows(100, first=first)
            held.add(batch, logits(batch), version=first)
    assert same(draw(forth), draw(back))


UNIFORM = [
    pytest.param(factory(name, whole), id=f"{name}-{'lists' if whole else 'rows'}")
    for name in ("class_balanced", "key_reservoir")  # of a class, where rows are quoted by class
    for whole in (False, True)
]


def stream_share(new: New) -> float:
    """Chi-square over tenths of the stream, over many seeds: is every part as likely to be remembered?"""
    batch = rows(1000)
    counts = torch.zeros(10)
    for salt in range(40):
        moved = replace(batch, row_key_B=batch.row_key_B + salt, list_key_B=batch.list_key_B + salt)
        held = new(100)
        for first in range(0, 1000, 100):
            part = moved.rows(first, first + 100)
            held.add(part, logits(part), 0)
        ends = np.cumsum(held.counts()) - 1
        of_class = held.classes() == held.classes().max() * (held.counts().max() > 1)
        counts += torch.bincount(
            held.column("time_B")[ends][of_class] // 100_000, minlength=10
        ).float()
    expected = counts.sum() / 10
    return float(((counts - expected).square() / expected).sum())


@pytest.mark.parametrize("new", UNIFORM)
def test_every_part_of_the_stream_has_an_equal_chance(new: New) -> None:
    """27.9 is the 0.1 % point at 9 degrees of freedom."""
    assert stream_share(new) < 27.9


@pytest.mark.parametrize("whole", [False, True])
def test_the_newest_rows_are_not_a_uniform_sample(whole: bool) -> None:
    """The check above can fail: the ring holds the last rows alone."""
    assert stream_share(factory("recency_ring", whole)) > 1000


def test_lists_are_remembered_and_drawn_whole() -> None:
    held = filled(factory("key_reservoir", True))
    batch = draw(held, 40).batch
    keys, sizes = batch.list_key_B.unique_consecutive(return_counts=True)
    assert (sizes == 4).all()
    assert len(keys) == 10
    assert (batch.label_BT[:, 2].view(-1, 4).sum(1) == 1).all()


def test_the_same_list_drawn_twice_stays_two_lists() -> None:
    held = factory("key_reservoir", True)(240)
    batch = rows(4)
    held.add(batch, logits(batch), 0)
    _, sizes = draw(held, 40).batch.list_key_B.unique_consecutive(return_counts=True)
    assert sizes.tolist() == [4] * 10


def test_long_lists_keep_positives_and_correct_for_the_rest() -> None:
    """49 negatives of which 19 stay: their rate goes into the offset as ln(49 / 19)."""
    held = factory("key_reservoir", True)(240)
    batch = rows(50, list_rows=50)
    held.add(batch, logits(batch), 0)
    kept = draw(held, 20).batch
    assert len(held) == 20
    assert kept.label_BT[:, 2].sum() == 1
    torch.testing.assert_close(kept.offset_B, torch.full((20,), 49 / 19).log())


@pytest.mark.parametrize("order", ["forth", "back", "twice"])
def test_the_ring_holds_the_newest_rows_by_event_time(order: str) -> None:
    held = factory("recency_ring", False)(100)
    firsts = {
        "forth": [*range(0, 1000, 100)],
        "back": [*range(900, -1, -100)],
        "twice": [*range(0, 1000, 100), 500, 300],  # offsets that were read again
    }
    for first in firsts[order]:
        batch = rows(100, first=first)
        held.add(batch, logits(batch), 0)
    assert sorted(held.column("time_B").tolist()) == rows(100, first=900).time_B.tolist()


def test_a_ring_in_the_order_of_arrival_would_not_be_idempotent() -> None:
    """The naive ring beside it: rows that are read again push newer ones out."""

    def naive(firsts: list[int]) -> list[int]:
        kept: list[int] = []
        for first in firsts:
            kept = [*kept, *rows(100, first=first).time_B.tolist()][-100:]
        return sorted(kept)

    whole = [*range(0, 1000, 100)]
    assert naive(whole) == rows(100, first=900).time_B.tolist()
    assert naive([*whole, 500]) != naive(whole)


SHARED = [
    pytest.param(name, whole, id=f"{name}-{'lists' if whole else 'rows'}")
    for name in MEMORIES
    for whole in (False, True)
]
LOUD = 1_000_001  # user key of somebody who sends every other list


def sharing(name: str, whole: bool, share: float) -> New:
    """Room for 400 units; of a user at most this share."""
    task, columns = ("search", (2,)) if whole else ("purchase", (1, 0))
    held = Held(SPEC, task, columns, whole, 0, CPU, user_share=share)
    return lambda size: MEMORIES[name](held, size * (20 if whole else 1))


def flooded(first: int, loud: bool = True) -> Batch:
    """A hundred rows in lists of four; every second list is the loud one's, the others are of users of their own."""
    batch = rows(100, first=first)
    list_B = torch.arange(first, first + 100) // 4
    user_B = torch.where((list_B % 4 < 2) & loud, LOUD, list_B + 1)
    return replace(batch, user_key_B=user_B)


def loudness(held: Memory) -> float:
    """Share of the rows held that are the loud one's."""
    return float((held.column("user_key_B") == LOUD).float().mean())


@pytest.mark.parametrize("name, whole", SHARED)
def test_one_user_holds_at_most_its_share(name: str, whole: bool) -> None:
    """Of 4,000 rows half are one user's; without a limit so is half of the memory."""
    limited, naive = sharing(name, whole, 0.01)(400), sharing(name, whole, 1.0)(400)
    for first in range(0, 12_000, 100):
        batch = flooded(first)
        for held in (limited, naive):
            held.add(batch, logits(batch), 0)
    assert loudness(naive) > 0.4
    assert loudness(limited) <= 0.01
    assert limited.units() == naive.units()  # others have the room


@pytest.mark.parametrize("name, whole", SHARED)
def test_a_limited_memory_is_the_same_in_every_order_and_read_twice(name: str, whole: bool) -> None:
    new = sharing(name, whole, 0.02)
    forth, back, twice = new(200), new(200), new(200)
    firsts = list(range(0, 6_000, 100))
    for held, order in ((forth, firsts), (back, firsts[::-1]), (twice, firsts + firsts[::3])):
        for first in order:
            batch = flooded(first)
            held.add(batch, logits(batch), 0)
    assert loudness(forth) > 0
    assert same(draw(forth), draw(back))
    assert same(draw(forth), draw(twice))
    assert thresholds(forth) == thresholds(back) == thresholds(twice)


@pytest.mark.parametrize("name, whole", SHARED)
def test_a_limit_changes_nothing_where_nobody_reaches_it(name: str, whole: bool) -> None:
    limited, free = sharing(name, whole, 0.1)(200), sharing(name, whole, 1.0)(200)
    for first in range(0, 6_000, 100):
        batch = flooded(first, loud=False)
        for held in (limited, free):
            held.add(batch, logits(batch), 0)
    assert same(draw(limited), draw(free))


@pytest.mark.parametrize("name, whole", SHARED)
def test_a_restored_or_merged_memory_keeps_the_limit(name: str, whole: bool) -> None:
    new = sharing(name, whole, 0.02)
    first, second, restored = new(200), new(200), new(200)
    for k, start in enumerate(range(0, 8_000, 100)):
        batch = flooded(start)
        (first, second)[k % 2].add(batch, logits(batch), 0)
    restored.restore(first.state())
    for start in range(8_000, 10_000, 100):
        batch = flooded(start)
        restored.add(batch, logits(batch), 0)
    first.merge(second)
    for held in (restored, first):
        assert 0 < loudness(held) <= 0.02 * 1.05  # a merged memory may hold a few rows less


def test_rows_of_nobody_are_not_limited() -> None:
    """Rows without a user all have key 0; one of a hundred of them would be no memory."""
    held = sharing("key_reservoir", False, 0.01)(200)
    batch = replace(rows(1000), user_key_B=torch.zeros(1000, dtype=torch.int64))
    held.add(batch, logits(batch), 0)
    assert held.units() == 200


BALANCED = MEMORIES["class_balanced"]


def digits(count: int, first: int = 0, classes: int = 10) -> Batch:
    """Rows of a task with many classes: class c is seen from row 100 * c on, the lower ones more often."""
    batch = rows(count, first=first)
    number_B = torch.arange(first, first + count)
    seen_B = (number_B // 100 + 1).clamp(max=classes)
    label_BT = batch.label_BT.clone()
    label_BT[:, 1] = (number_B * number_B // 7 % 97 % seen_B).float()
    return replace(batch, label_BT=label_BT)


def many(size: int, classes: int = 10) -> Any:
    edges = tuple(c + 0.5 for c in range(classes - 1))
    return BALANCED(Held(SPEC, "purchase", (1, 0), False, 0, CPU, edges), size)


def test_quotas_are_equal_with_the_remainder_one_each_and_shrink_as_classes_appear() -> None:
    held = many(64)
    expected = {100: [64], 200: [32, 32], 1500: [7] * 4 + [6] * 6}
    for first in range(0, 1500, 100):
        batch = digits(100, first)
        held.add(batch, logits(batch), 0)
        if first + 100 in expected:
            assert np.bincount(held.classes()).tolist() == expected[first + 100]


def test_every_class_is_held_as_a_reservoir_over_its_own_rows_would() -> None:
    held = many(64)
    batch = digits(1500)
    for first in range(0, 1500, 100):
        part = batch.rows(first, first + 100)
        held.add(part, logits(part), 0)
    for one in range(10):
        alone = MEMORIES["key_reservoir"](
            Held(SPEC, "purchase", (1, 0), False, 0, CPU), 7 if one < 4 else 6
        )
        own = batch.select(batch.label_BT[:, 1] == one)
        alone.add(own, logits(own), 0)
        ours = held.column("row_key_B")[torch.from_numpy(held.classes() == one)]
        assert sorted(ours.tolist()) == sorted(alone.column("row_key_B").tolist())


def test_fewer_rows_than_classes_are_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"10 classes, and 9 rows.*raise memory\.rows"):
        many(9)
    assert len(many(10)) == 0
    with pytest.raises(ConfigError, match="10 classes"):
        many(20).resized(5)


def test_a_corrected_label_moves_its_row_to_its_class_and_never_leaves_two() -> None:
    held = many(64)
    batch = digits(1500)
    held.add(batch, logits(batch), 0)
    key = int(held.column("row_key_B")[0])
    row = batch.select(batch.row_key_B == key)
    label_BT = row.label_BT.clone()
    label_BT[:, 1] = 9
    turned = replace(row, label_BT=label_BT)
    repaired, added = many(64), many(64)
    for other in (repaired, added):
        other.restore(held.state())
    assert repaired.repair(turned) == 1
    added.add(turned, logits(turned), 0)
    for other in (repaired, added):
        assert np.bincount(other.classes()).tolist()[0] == 6
        at = (other.column("row_key_B") == key).nonzero()
        if len(at):  # its key may be too low for the new class
            assert len(at) == 1
            assert other.classes()[int(at)] == 9


def test_what_a_class_weighs_in_the_stream_is_known_from_its_keys() -> None:
    """Held rows over the chance to be held estimate the stream's counts, 700 and 300, over many seeds."""
    counts = np.zeros(2)
    batch = rows(1000)
    label_BT = batch.label_BT.clone()
    label_BT[:, 1] = (torch.arange(1000) % 10 < 3).float()
    for salt in range(60):
        moved = replace(batch, row_key_B=batch.row_key_B + salt, label_BT=label_BT)
        held = BALANCED(Held(SPEC, "purchase", (1, 0), False, 0, CPU), 400)
        held.add(moved, logits(moved), 0)
        chance_K = held.log_chance().exp()  # type: ignore[union-attr]
        weight_K = torch.tensor([200.0, 200.0]) / chance_K
        torch.testing.assert_close(weight_K.sum(), torch.tensor(400.0))
        counts += weight_K.numpy() * 2.5
    np.testing.assert_allclose(counts / 60, [700, 300], rtol=0.03)


def test_two_stores_share_room_and_draws() -> None:
    held = MEMORIES["two_store"](Held(SPEC, "purchase", (1, 0), False, 0, CPU, recent=0.25), 200)
    for first in range(0, 1000, 100):
        batch = rows(100, first=first)
        held.add(batch, logits(batch), 0)
    assert len(held) == 200
    newest = rows(1000).time_B[-50:].min()
    assert (held.column("time_B")[150:] >= newest).all()
    time_B = draw(held, 400).batch.time_B
    assert (time_B[300:] >= newest).all()
    assert (time_B[:300] < newest).float().mean() > 0.8


def test_two_stores_need_room_for_both() -> None:
    with pytest.raises(ConfigError, match="another share"):
        MEMORIES["two_store"](Held(SPEC, "search", (2,), True, 0, CPU, recent=0.1), 100)


@pytest.mark.parametrize("whole", [False, True])
def test_bytes_of_a_row_are_what_the_state_takes(whole: bool) -> None:
    held = Held(SPEC, "purchase", (1, 0), whole, 0, CPU)
    state = MEMORIES["key_reservoir"](held, 400).state()
    taken = sum(value.nbytes for value in state.values() if isinstance(value, Tensor))
    assert 400 * row_bytes(held) * 0.9 < taken <= 400 * row_bytes(held)


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(memory.__path__)} - {"base"}
    assert files == {new.__module__.rsplit(".", 1)[1] for new in MEMORIES.values()}  # type: ignore[attr-defined]
