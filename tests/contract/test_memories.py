"""Every memory policy keeps what `memory/base.py` promises, for single rows and for whole lists."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import Generator, Tensor

from stream_mtl import memory
from stream_mtl.batch import Batch, concat
from stream_mtl.errors import StateError
from stream_mtl.memory import MEMORIES, Held, Memory
from stream_mtl.memory.base import Sample
from stream_mtl.testing_rows import SPEC, rows

New = Callable[[int], Memory]
CPU = torch.device("cpu")


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


def filled(new: New, size: int = 240, count: int = 1000) -> Memory:
    held = new(size)
    for first in range(0, count, 100):
        batch = rows(100, first=first)
        held.add(batch, logits(batch), version=first)
    return held


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
    user = int(draw(held).batch.user_key_B[0])
    before = len(held)
    erased = held.erase(user)
    assert erased > 0
    assert len(held) == before - erased
    assert not (held.state()["user_key_B"] == user).any()
    assert not (draw(held, 500).batch.user_key_B == user).any()
    assert held.erase(user) == 0


@pytest.mark.parametrize("new", CASES)
def test_erasure_does_not_open_the_door_to_rows_turned_away(new: New) -> None:
    """The threshold never falls: else only rows that come later would fill the gap."""
    erase_and_offer_again(filled(new))


def erase_and_offer_again(held: Memory) -> None:
    user = int(draw(held).batch.user_key_B[0])
    held.erase(user)
    before = len(held)
    for first in range(0, 1000, 100):
        batch = rows(100, first=first)
        others = batch.select(batch.user_key_B != user)
        held.add(others, logits(others), 0)
    assert len(held) == before


def test_the_erasure_check_has_power() -> None:
    """A reservoir that forgets its threshold lets later rows into the gap: what the check forbids."""

    class Forgetful(MEMORIES["key_reservoir"]):  # type: ignore[misc]
        def erase(self, user_key: int) -> int:
            erased = super().erase(user_key)
            self._threshold = -1
            return int(erased)

    held = filled(lambda size: Forgetful(Held(SPEC, "purchase", (1, 0), False, 0, CPU), size))
    with pytest.raises(AssertionError):
        erase_and_offer_again(held)


@pytest.mark.parametrize("new", CASES)
def test_merged_halves_equal_one_filled_whole(new: New) -> None:
    left, right = new(240), new(240)
    for first in range(0, 1000, 100):
        batch = rows(100, first=first)
        (left if first < 600 else right).add(batch, logits(batch), version=first)
    left.merge(right)
    assert same(draw(left), draw(filled(new)))
    assert left.state()["threshold"] == filled(new).state()["threshold"]


@pytest.mark.parametrize("new", CASES)
def test_shrinking_equals_having_been_small_from_the_start(new: New) -> None:
    assert same(draw(filled(new, 480).resized(120)), draw(filled(new, 120)))


@pytest.mark.parametrize("new", CASES)
def test_growing_keeps_rows_and_capacity(new: New) -> None:
    small = filled(new, 120)
    large = small.resized(480)
    assert same(draw(small), draw(large))


@pytest.mark.parametrize("new", CASES)
def test_late_labels_are_repaired_in_place(new: New) -> None:
    held = filled(new)
    sample = draw(held, 1)
    own = int(sample.batch.mask_BT[0].nonzero())
    flipped = replace(sample.batch, label_BT=1 - sample.batch.label_BT)
    unknown = rows(20, first=9000)
    assert held.repair(concat([flipped.rows(0, 1), unknown])) <= 1
    whole = rows(1000)
    turned = replace(whole, label_BT=1 - whole.label_BT)
    assert held.repair(turned) == len(held)
    again = draw(held, 1)
    assert torch.equal(again.batch.label_BT[:, own], 1 - sample.batch.label_BT[:, own])


@pytest.mark.parametrize("new", CASES)
def test_order_of_rows_in_the_stream_does_not_decide_who_stays(new: New) -> None:
    forth, back = new(240), new(240)
    firsts = range(0, 1000, 100)
    for held, order in ((forth, firsts), (back, reversed(firsts))):
        for first in order:
            batch = rows(100, first=first)
            held.add(batch, logits(batch), version=first)
    assert same(draw(forth), draw(back))


@pytest.mark.parametrize("new", CASES)
def test_every_part_of_the_stream_has_an_equal_chance(new: New) -> None:
    """Chi-square over tenths of the stream, many seeds: 27.9 is the 0.1 % point at 9 degrees."""
    batch = rows(1000)
    counts = torch.zeros(10)
    for salt in range(40):
        moved = replace(batch, row_key_B=batch.row_key_B + salt, list_key_B=batch.list_key_B + salt)
        held = new(100)
        for first in range(0, 1000, 100):
            part = moved.rows(first, first + 100)
            held.add(part, logits(part), 0)
        state = held.state()
        live = state["time_B"][
            state["key_U"].repeat_interleave(len(state["time_B"]) // len(state["key_U"])) >= 0
        ]
        units = live.view(len(state["key_U"]), -1)[:, 0]
        counts += torch.bincount(units // 100_000, minlength=10)
    expected = counts.sum() / 10
    assert ((counts - expected).square() / expected).sum() < 27.9


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


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(memory.__path__)} - {"base"}
    assert files == {new.__module__.rsplit(".", 1)[1] for new in MEMORIES.values()}  # type: ignore[attr-defined]
