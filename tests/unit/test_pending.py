"""Rows that wait for their step: small steps for a young model, lists whole, nothing lost."""

from __future__ import annotations

import torch

from stream_mtl.pending import GROWTH, Pending
from stream_mtl.testing_rows import SPEC, rows


def test_steps_grow_from_small_to_full_with_the_rows_learned() -> None:
    pending = Pending(SPEC, 64, first_rows=8)
    sizes, first = [], 0
    while first < 70 * GROWTH:
        pending.add(rows(2_048, first=first))
        first += 2_048
        sizes += [len(batch) for batch in pending.full()]
    assert sizes[0] == 8
    assert sizes[-1] == 64
    assert sizes == sorted(sizes)
    assert sum(sizes) + len(pending) == first


def test_steps_are_full_from_the_start_when_not_asked_otherwise() -> None:
    pending = Pending(SPEC, 64)
    pending.add(rows(200))
    assert [len(batch) for batch in pending.full()] == [64, 64, 64]


def test_a_list_is_never_cut_in_two() -> None:
    pending = Pending(SPEC, 64, first_rows=10)
    pending.add(rows(400, list_rows=4))
    last: set[int] = set()
    for batch in pending.full():
        keys = set(batch.list_key_B.tolist())
        assert len(batch) == 4 * len(keys)
        assert not keys & last
        last |= keys


def test_restored_rows_go_on_in_the_same_steps() -> None:
    one = Pending(SPEC, 64, first_rows=8)
    one.add(rows(8 * GROWTH + 3))
    for _ in one.full():
        pass
    two = Pending(SPEC, 64, first_rows=8)
    two.restore(one.state())
    assert two.step_rows() == one.step_rows() == 8
    for pending in (one, two):
        pending.add(rows(1_000, first=8 * GROWTH + 3))
    for left, right in zip(one.full(), two.full(), strict=True):
        assert torch.equal(left.row_key_B, right.row_key_B)
    assert one.step_rows() > 8
