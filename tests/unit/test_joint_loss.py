"""How much each row of a step counts."""

from __future__ import annotations

from dataclasses import replace

import torch

from stream_mtl.batch import Batch, Spec
from stream_mtl.held import Sample
from stream_mtl.joint_loss import Rehearsed, join_rows
from stream_mtl.rehearsal.base import Draw
from stream_mtl.testing_rows import rows

SPEC = Spec(("user", "item"), ("price",), ("click", "purchase", "search"), 128, 0)
SEARCH, FRESH, REMEMBERED = 2, 60, 20


def told(count: int, first: int, known_T: list[bool]) -> Batch:
    batch = rows(count, first=first, spec=SPEC)
    mask_BT = torch.tensor(known_T).expand(count, 3).clone()
    return replace(batch, mask_BT=mask_BT, weight_B=torch.ones(count))


def test_a_remembered_row_counts_as_much_when_the_labels_of_its_task_have_stopped() -> None:
    remembered = told(REMEMBERED, FRESH, [False, False, True])
    sample = Sample(remembered, torch.zeros(REMEMBERED, 1), torch.zeros(REMEMBERED))
    rehearsed = [Rehearsed(SEARCH, Draw(REMEMBERED, 0.25, 0.0), sample)]
    speaking = join_rows(told(FRESH, 0, [True, True, True]), rehearsed)
    silent = join_rows(told(FRESH, 0, [True, True, False]), rehearsed)
    share_R = silent.share_BT[FRESH:, SEARCH]
    assert torch.allclose(share_R, torch.full((REMEMBERED,), 0.25 / (FRESH + 0.25 * REMEMBERED)))
    assert torch.equal(share_R, speaking.share_BT[FRESH:, SEARCH])
    assert torch.equal(silent.share_BT[:, :SEARCH], speaking.share_BT[:, :SEARCH])
