"""One user's part of what is learned and judged."""

from __future__ import annotations

from dataclasses import replace

import torch

from stream_mtl import batch as batches
from stream_mtl.batch import Batch
from stream_mtl.features import Rows
from stream_mtl.row_limit import RowLimit
from stream_mtl.settings_defence import Defence
from stream_mtl.testing_rows import SPEC, rows

LOUD = 1_000_001


def flooded(first: int) -> Batch:
    """A thousand rows in lists of four, every second list the loud one's."""
    batch = rows(1_000, first=first)
    list_B = torch.arange(first, first + 1_000) // 4
    return replace(batch, user_key_B=torch.where(list_B % 2 == 0, LOUD, list_B + 1))


def told(batch: Batch) -> Rows:
    nothing = batches.empty(SPEC)
    served_BC = batch.prior_B.unsqueeze(1)
    return Rows(batch, served_BC, served_BC + 1, nothing, batch.label_BT, nothing)


def limit(share: float = 0.01) -> RowLimit:
    return RowLimit(Defence(user_share=share, least_rows=40))


def test_of_half_of_the_rows_a_hundredth_is_left_and_all_of_the_others() -> None:
    limited, left, offered = limit(), 0, 0
    for first in range(0, 40_000, 1_000):
        batch = limited.limited(told(flooded(first))).batch
        left += int((batch.user_key_B == LOUD).sum())
        offered += int((batch.user_key_B != LOUD).sum())
    assert offered == 20_000
    assert 0 < left <= 0.015 * offered
    assert limited.take() == 20_000 - left
    assert limited.take() == 0


def test_what_belongs_to_a_row_stays_with_it_and_lists_stay_whole() -> None:
    limited = limit()
    for first in range(0, 3_000, 1_000):
        left = limited.limited(told(flooded(first)))
    assert len(left.batch) < 1_000
    assert torch.equal(left.served_BC[:, 0], left.batch.prior_B)
    assert torch.equal(left.champion_BC[:, 0], left.batch.prior_B + 1)
    assert left.told_BT is left.batch.label_BT
    _, counts = left.batch.list_key_B.unique_consecutive(return_counts=True)
    assert (counts == 4).all()


def test_labels_as_they_are_told_stay_with_their_rows() -> None:
    limited, batch = limit(), flooded(0)
    given = replace(told(batch), told_BT=batch.prior_B.unsqueeze(1).repeat(1, 3))
    left = limited.limited(given)
    assert torch.equal(left.told_BT[:, 0], left.batch.prior_B)


def test_without_a_limit_rows_are_handed_on_as_they_are() -> None:
    free, given = limit(share=1.0), told(flooded(0))
    assert free.limited(given) is given
    assert free.state() == {}


def test_a_restored_limit_goes_on_alike() -> None:
    first, second = limit(), limit()
    first.limited(told(flooded(0)))
    second.restore(first.state())
    one, two = first.limited(told(flooded(1_000))), second.limited(told(flooded(1_000)))
    assert torch.equal(one.batch.row_key_B, two.batch.row_key_B)
