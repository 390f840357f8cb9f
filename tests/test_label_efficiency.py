"""How many labels the other tasks replace: the arithmetic, and what is left untold."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.label_efficiency import equal_at, figures, part_told
from stream_mtl.testing_rows import rows


def test_two_shares_around_the_task_alone_are_met_on_a_line_over_the_logarithm() -> None:
    together = {1.0: 0.8, 0.25: 0.6, 0.1: 0.5}
    assert equal_at(0.7, together) == pytest.approx(0.5)  # half way from a quarter to all


def test_a_share_counts_only_from_where_all_larger_ones_are_good_enough() -> None:
    noisy = {1.0: 0.8, 0.5: 0.6, 0.25: 0.75, 0.1: 0.5}
    assert 0.5 < equal_at(0.7, noisy) < 1.0


def test_the_least_share_tried_is_all_that_can_be_said_when_it_is_good_enough() -> None:
    assert equal_at(0.4, {1.0: 0.8, 0.1: 0.5}) == 0.1
    assert figures("search", [0.4], {1.0: [0.8], 0.1: [0.5]})[-1].measured == "at most 0.1"


def test_a_task_that_the_others_only_disturb_is_told_as_such() -> None:
    assert math.isinf(equal_at(0.9, {1.0: 0.8, 0.1: 0.5}))
    assert figures("purchase", [0.9], {1.0: [0.8], 0.1: [0.5]})[-1].measured == "more than all"


def test_a_part_of_one_tasks_labels_is_told_in_whole_lists_and_the_other_tasks_are_left_alone() -> (
    None
):
    batch = rows(4_000)
    kept = part_told(2, 0.25)(batch)
    assert len(kept) == len(batch)  # other labels are there
    assert torch.equal(kept.mask_BT[:, :2], batch.mask_BT[:, :2])
    assert int(kept.mask_BT[:, 2].sum()) == pytest.approx(500, rel=0.15)  # of 2,000
    told = set(kept.list_key_B[kept.mask_BT[:, 2]].tolist())
    silent = set(kept.list_key_B[~kept.mask_BT[:, 2] & batch.mask_BT[:, 2]].tolist())
    assert not told & silent
    assert not kept.label_BT[~kept.mask_BT[:, 2] & batch.mask_BT[:, 2], 2].any()


def test_a_smaller_part_is_part_of_a_larger_one() -> None:
    batch = rows(4_000)
    half, tenth = part_told(2, 0.5)(batch).mask_BT, part_told(2, 0.1)(batch).mask_BT
    assert bool((half | ~tenth).all())
    assert half.sum() > tenth.sum()
