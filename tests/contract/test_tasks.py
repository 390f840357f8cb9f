"""Every task kind keeps what `tasks/base.py` promises."""

from __future__ import annotations

import math
import pkgutil

import pytest
import torch

from stream_mtl import tasks
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Columns, TaskKind
from stream_mtl.testing_rows import rows

KINDS = [pytest.param(kind(Columns(0, 1, 0.5)), id=name) for name, kind in TASKS.items()]


def loss_of(kind: TaskKind, logit_BT: torch.Tensor, mask_B: torch.Tensor) -> torch.Tensor:
    batch = rows(len(logit_BT))
    return kind.loss(logit_BT, batch.label_BT[:, 0], mask_B, batch.list_key_B, mask_B)


@pytest.fixture
def logit_BT() -> torch.Tensor:
    return torch.randn(24, 2, generator=torch.Generator().manual_seed(3)).requires_grad_()


@pytest.mark.parametrize("kind", KINDS)
def test_loss_has_one_finite_value_a_row(kind: TaskKind, logit_BT: torch.Tensor) -> None:
    loss_B = loss_of(kind, logit_BT, torch.ones(24, dtype=torch.bool))
    assert loss_B.shape == (24,)
    assert loss_B.isfinite().all()
    assert (loss_B >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_stay_finite_at_extreme_logits(kind: TaskKind) -> None:
    ends = torch.tensor([-200.0, -30.0, -1e-4, 0.0, 1e-4, 30.0, 200.0])
    logit_BT = torch.cartesian_prod(ends, ends)[:48].clone().requires_grad_()
    loss_B = loss_of(kind, logit_BT, torch.ones(48, dtype=torch.bool))
    loss_B.sum().backward()
    assert loss_B.isfinite().all()
    assert logit_BT.grad is not None
    assert logit_BT.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_absent_labels_contribute_nothing(kind: TaskKind, logit_BT: torch.Tensor) -> None:
    """A masked row has no loss, gets no gradient and changes no other row's loss, in its list too."""
    mask_B = torch.arange(24) % 4 != 1
    loss_B = loss_of(kind, logit_BT, mask_B)
    loss_B.sum().backward()
    assert (loss_B[~mask_B] == 0).all()
    assert logit_BT.grad is not None
    assert (logit_BT.grad[~mask_B] == 0).all()
    moved_BT = torch.where(mask_B.unsqueeze(1), logit_BT.detach(), torch.tensor(55.0))
    assert torch.equal(loss_of(kind, moved_BT, mask_B), loss_B.detach())


@pytest.mark.parametrize("kind", KINDS)
def test_prediction_is_a_probability(kind: TaskKind, logit_BT: torch.Tensor) -> None:
    prob_B = kind.log_probability(logit_BT.detach() * 5).exp()
    assert prob_B.shape == (24,)
    assert ((prob_B > 0) & (prob_B < 1)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_give_no_loss(kind: TaskKind) -> None:
    assert loss_of(kind, torch.zeros(0, 2), torch.zeros(0, dtype=torch.bool)).shape == (0,)


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(tasks.__path__)} - {"base"}
    assert files == {kind.__module__.rsplit(".", 1)[1] for kind in TASKS.values()}  # type: ignore[attr-defined]


def test_funnel_loss_equals_the_textbook_form_in_double_precision() -> None:
    """-[z log(pq) + (1-z) log(1-pq)], p and q sigmoids of click and buy-given-click."""
    kind = TASKS["funnel"](Columns(0, 1))
    logit_BT = 4 * torch.randn(500, 2, generator=torch.Generator().manual_seed(5))
    label_B = (torch.arange(500) % 3 == 0).float()
    mask_B = torch.ones(500, dtype=torch.bool)
    loss_B = kind.loss(logit_BT, label_B, mask_B, torch.zeros(500, dtype=torch.int64), ~mask_B)
    p_B = logit_BT.double().sigmoid().prod(1)
    expected_B = -(label_B * p_B.log() + (1 - label_B) * torch.log1p(-p_B))
    torch.testing.assert_close(loss_B.double(), expected_B, rtol=2e-5, atol=1e-7)


def test_funnel_loss_teaches_both_heads(logit_BT: torch.Tensor) -> None:
    loss_of(
        TASKS["funnel"](Columns(0, 1)), logit_BT, torch.ones(24, dtype=torch.bool)
    ).sum().backward()
    assert logit_BT.grad is not None
    assert (logit_BT.grad.abs() > 0).all()


def test_funnel_survives_where_the_plain_form_does_not() -> None:
    """log(1 - pq) is -inf once pq rounds to 1; the log-space form stays finite."""
    certain_BT = torch.full((1, 2), 40.0)
    assert torch.log(1 - certain_BT.sigmoid().prod(1)).isinf().all()
    no = torch.zeros(1)
    mask_B = torch.ones(1, dtype=torch.bool)
    loss_B = TASKS["funnel"](Columns(0, 1)).loss(
        certain_BT, no, mask_B, torch.zeros(1).long(), ~mask_B
    )
    assert loss_B.item() == pytest.approx(-math.log(1e-6), rel=1e-2)


def test_list_without_a_positive_gives_only_its_bce() -> None:
    kind = TASKS["listwise"](Columns(0))
    logit_BT = torch.tensor([[0.3], [1.0], [-2.0]])
    loss_B = kind.loss(
        logit_BT,
        torch.zeros(3),
        torch.ones(3, dtype=torch.bool),
        torch.zeros(3).long(),
        torch.zeros(3, dtype=torch.bool),
    )
    torch.testing.assert_close(loss_B, 0.2 * torch.nn.functional.softplus(logit_BT[:, 0]))


def test_list_softmax_sums_to_one_cross_entropy_a_list() -> None:
    from stream_mtl.list_softmax import list_softmax_loss

    logit_B = torch.tensor([0.1, 2.0, -1.0, 0.5, 0.4])
    label_B = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    key_B = torch.tensor([7, 7, 7, 3, 3])
    loss_B = list_softmax_loss(logit_B, label_B, torch.ones(5, dtype=torch.bool), key_B)
    first = -logit_B[:3].log_softmax(0)[1]
    second = -logit_B[3:].log_softmax(0)[0]
    torch.testing.assert_close(loss_B, torch.tensor([0.0, first, 0.0, second, 0.0]))


def test_binary_task_ranks_only_lists_that_were_drawn() -> None:
    """A list that a shop has shown gives the plain BCE, whatever `listwise` is."""
    kind, plain = TASKS["binary"](Columns(0, None, 1.0)), TASKS["binary"](Columns(0, None, 0.0))
    logit_BT, label_B = torch.tensor([[0.3], [1.0], [-2.0]]), torch.tensor([0.0, 1.0, 0.0])
    known_B, key_B = torch.ones(3, dtype=torch.bool), torch.zeros(3).long()
    shown_B = kind.loss(logit_BT, label_B, known_B, key_B, ~known_B)
    drawn_B = kind.loss(logit_BT, label_B, known_B, key_B, known_B)
    torch.testing.assert_close(shown_B, plain.loss(logit_BT, label_B, known_B, key_B, known_B))
    assert drawn_B[1] > shown_B[1]
