"""Fewer negatives, the same probabilities."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stream_mtl.batch import Batch
from stream_mtl.config import Task
from stream_mtl.pending import Pending
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Place, Settings, TaskKind
from stream_mtl.testing_rows import SPEC, rows
from stream_mtl.thinning import thinned, thinner

KEEP_T = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)


def count(batch: Batch, task: int, label: float) -> int:
    return int((batch.mask_BT[:, task] & (batch.label_BT[:, task] == label)).sum())


def test_a_share_of_the_negatives_is_kept_and_every_positive() -> None:
    given = rows(20_000)
    kept = thinned(given, KEEP_T)
    for task, keep in enumerate(KEEP_T.tolist()):
        assert count(kept, task, 1) == count(given, task, 1)
        assert count(kept, task, 0) / count(given, task, 0) == pytest.approx(keep, abs=0.012)
    assert torch.equal(kept.label_BT[kept.label_BT > 0], given.label_BT[given.label_BT > 0])


def test_a_row_without_a_known_label_left_is_gone() -> None:
    given = rows(2_000)
    given = replace(given, mask_BT=given.mask_BT & torch.tensor([False, True, False]))
    kept = thinned(given, KEEP_T)
    assert kept.mask_BT[:, 1].all()
    assert 0.5 < len(kept) / len(given) < 0.65


def test_which_rows_are_kept_is_the_row_s_own_business() -> None:
    """In any order and company, and whatever was kept at a smaller share is kept at a larger one."""
    given = rows(3_000)
    order_B = torch.randperm(len(given), generator=torch.Generator().manual_seed(1))
    some = thinned(given.select(order_B[:1_000]), KEEP_T)
    all_of_it = thinned(given, KEEP_T)
    among_B = torch.isin(all_of_it.row_key_B, given.row_key_B[order_B[:1_000]])
    assert set(some.row_key_B.tolist()) == set(all_of_it.row_key_B[among_B].tolist())
    more = thinned(given, 1.5 * KEEP_T)
    assert torch.isin(all_of_it.row_key_B, more.row_key_B).all()


def test_only_what_is_kept_waits_for_a_step() -> None:
    thin = thinner({name: Task(kind="binary", keep_negatives=0.1) for name in SPEC.tasks})
    pending, plain = Pending(SPEC, 10_000, thin=thin), Pending(SPEC, 10_000)
    for one in (pending, plain):
        one.add(rows(1_000))
    assert 0 < len(pending) < 0.5 * len(plain) == 500
    assert thinner({"click": Task(kind="binary"), "search": Task(kind="listwise")}) is None


@pytest.mark.parametrize("rate", [0.004, 0.05, 0.6])
@pytest.mark.parametrize("keep", [0.5, 0.1])
def test_the_shift_of_the_logit_is_exact(rate: float, keep: float) -> None:
    """q = p / (p + (1 - p) w): the loss of a row is that of rate q among the kept, at the logit of p (He et al. 2014)."""
    kind = TASKS["binary"](Place(0, 0), Settings(keep_negatives=keep))
    logit_BC = torch.full((2, 1), math.log(rate / (1 - rate)), dtype=torch.float64)
    label_B, known_B = torch.tensor([0.0, 1.0]).double(), torch.ones(2, dtype=torch.bool)
    no, yes = kind.loss(logit_BC, label_B, known_B, known_B.long(), ~known_B).tolist()
    among_kept = rate / (rate + (1 - rate) * keep)
    assert yes == pytest.approx(-math.log(among_kept), rel=1e-9)
    assert no == pytest.approx(-math.log(1 - among_kept), rel=1e-9)
    assert kind.score(logit_BC)[0].item() == pytest.approx(rate)


def test_the_shift_is_exact_for_the_product_of_a_funnel_too() -> None:
    keep, kind = 0.1, TASKS["funnel"](Place(1, 1), Settings(keep_negatives=0.1), [Place(0, 0)])
    logit_BC = torch.randn(50, 2, generator=torch.Generator().manual_seed(1)).double()
    p_B, known_B = logit_BC.sigmoid().prod(1), torch.ones(50, dtype=torch.bool)
    among_kept_B = p_B / (p_B + (1 - p_B) * keep)
    for label, wanted_B in ((1.0, -among_kept_B.log()), (0.0, -torch.log1p(-among_kept_B))):
        label_B = torch.full((50,), label).double()
        loss_B = kind.loss(logit_BC, label_B, known_B, known_B.long(), ~known_B)
        torch.testing.assert_close(loss_B, wanted_B, rtol=1e-6, atol=1e-9)


def learned(kind: TaskKind, batch: Batch) -> Tensor:
    """The rate that one constant logit learns from these rows."""
    logit = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([logit], 0.5, max_iter=100, line_search_fn="strong_wolfe")
    label_B, known_B = batch.label_BT[:, 1].double(), batch.mask_BT[:, 1]

    def loss() -> Tensor:
        search.zero_grad()
        logit_BC = logit.expand(len(batch)).unsqueeze(1)
        mean = kind.loss(logit_BC, label_B, known_B, batch.list_key_B, ~known_B).mean()
        mean.backward()  # type: ignore[no-untyped-call]
        return mean

    search.step(loss)  # type: ignore[no-untyped-call]
    return kind.score(logit.detach().unsqueeze(0))


def test_what_is_learned_from_a_tenth_of_the_negatives_is_the_true_rate() -> None:
    """And without the shift it is not: the naive kind beside it says several times as much."""
    given = rows(40_000)
    true = float(given.label_BT[:, 1].mean())
    kept = thinned(given, torch.tensor([0.1, 0.1, 0.1], dtype=torch.float64))
    ours = TASKS["binary"](Place(1, 0), Settings(keep_negatives=0.1))
    naive = TASKS["binary"](Place(1, 0), Settings())
    assert learned(ours, kept).item() == pytest.approx(true, rel=0.05)
    assert learned(naive, kept).item() > 4 * true
