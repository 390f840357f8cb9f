"""Every balancer keeps what `balancers/base.py` promises."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stream_mtl import balancers
from stream_mtl.balancers import BALANCERS
from stream_mtl.balancers.base import Balancer

New = Callable[[Tensor], Balancer]
CASES = [pytest.param(new, id=name) for name, new in BALANCERS.items()]
WEIGHT_T = torch.tensor([1.0, 3.0, 2.0])
LOSS_T = torch.tensor([0.7, 0.2, 1.5])


@pytest.mark.parametrize("new", CASES)
def test_gradients_are_finite(new: New) -> None:
    loss_T = LOSS_T.clone().requires_grad_()
    weight_T = new(WEIGHT_T).weights(loss_T.detach(), torch.ones(3, dtype=torch.bool))
    (loss_T * weight_T).sum().backward()
    assert loss_T.grad is not None
    assert loss_T.grad.isfinite().all()


@pytest.mark.parametrize("new", CASES)
def test_inactive_task_weighs_nothing_and_shifts_no_other(new: New) -> None:
    """Three tasks with one inactive give the weights of a shop that never had that task."""
    weight_T = new(WEIGHT_T).weights(LOSS_T, torch.tensor([True, False, True]))
    assert weight_T[1] == 0
    alone_T = new(WEIGHT_T[[0, 2]]).weights(LOSS_T[[0, 2]], torch.ones(2, dtype=torch.bool))
    torch.testing.assert_close(weight_T[[0, 2]], alone_T)


@pytest.mark.parametrize("new", CASES)
def test_order_of_tasks_does_not_matter(new: New) -> None:
    order = torch.tensor([2, 0, 1])
    on = torch.ones(3, dtype=torch.bool)
    straight_T = new(WEIGHT_T).weights(LOSS_T, on)
    torch.testing.assert_close(new(WEIGHT_T[order]).weights(LOSS_T[order], on), straight_T[order])


@pytest.mark.parametrize("new", CASES)
def test_single_task_gets_its_plain_gradient(new: New) -> None:
    weight_T = new(WEIGHT_T).weights(LOSS_T, torch.tensor([False, True, False]))
    torch.testing.assert_close(weight_T, torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize("new", CASES)
def test_no_active_task_gives_no_weights(new: New) -> None:
    assert (new(WEIGHT_T).weights(LOSS_T, torch.zeros(3, dtype=torch.bool)) == 0).all()


@pytest.mark.parametrize("new", CASES)
def test_state_round_trip_gives_the_same_next_weights(new: New) -> None:
    on = torch.ones(3, dtype=torch.bool)
    first = new(WEIGHT_T)
    first.weights(LOSS_T, on)
    second = new(torch.ones(3))
    second.restore(first.state())
    assert torch.equal(first.weights(LOSS_T * 2, on), second.weights(LOSS_T * 2, on))


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(balancers.__path__)} - {"base"}
    assert files == {new.__module__.rsplit(".", 1)[1] for new in BALANCERS.values()}  # type: ignore[attr-defined]
