"""How much each row of a step counts."""

from __future__ import annotations

from dataclasses import replace

import torch

from stream_mtl.batch import Batch, Spec
from stream_mtl.config import Config
from stream_mtl.held import Sample
from stream_mtl.joint_loss import Rehearsed, join_rows, task_losses
from stream_mtl.rehearsal.base import Draw
from stream_mtl.task_columns import task_kinds
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


def test_a_label_that_is_all_but_impossible_teaches_nothing_more() -> None:
    """A model that is sure of a row is not thrown by one lie; without a limit the lie has the largest gradient."""
    kinds = task_kinds(SPEC, Config())
    batch = rows(8, spec=SPEC, list_rows=8)
    batch = replace(batch, label_BT=torch.zeros(8, 3), mask_BT=torch.ones(8, 3) > 0)
    batch.label_BT[3, 0] = 1.0
    joint = join_rows(batch, [])

    def gradient(most: float, logit: float) -> float:
        logit_BC = torch.full((8, 3), -2.0)
        logit_BC[3, 0] = logit
        logit_BC.requires_grad_()
        task_losses(joint, logit_BC, kinds, torch.ones(3), None, most)[0].backward()  # type: ignore[no-untyped-call]
        assert logit_BC.grad is not None
        return abs(float(logit_BC.grad[3, 0]))

    assert gradient(0.0, -20.0) > 0.1
    assert gradient(12.0, -20.0) == 0.0
    assert gradient(12.0, -6.0) == gradient(0.0, -6.0) > 0.1
