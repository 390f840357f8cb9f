"""Both optimisers against independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stream_mtl.config import Optimizer
from stream_mtl.errors import StateError
from stream_mtl.optim import DenseOptimizer, TableOptimizer, clip_


def test_rowwise_adagrad_equals_a_plain_numpy_one() -> None:
    random = np.random.default_rng(0)
    table = random.normal(size=(20, 4)).astype(np.float32)
    table[0] = 0
    ours = torch.from_numpy(table.copy())
    optimizer = TableOptimizer(ours, Optimizer(table_lr=0.1))
    accumulator = np.zeros(20)
    for _ in range(30):
        rows = np.sort(random.choice(np.arange(1, 20), 6, replace=False))
        gradient = random.normal(size=(6, 4)).astype(np.float32)
        for row, g in zip(rows, gradient, strict=True):
            accumulator[row] += np.mean(g.astype(np.float64) ** 2)
            table[row] -= 0.1 * g / (np.sqrt(accumulator[row]) + 1e-8)
        optimizer.step(torch.from_numpy(rows), torch.from_numpy(gradient))
    np.testing.assert_allclose(ours.numpy(), table, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "sgd"])
def test_untouched_rows_and_the_missing_row_stay(kind: str) -> None:
    table = torch.ones(6, 2)
    table[0] = 0
    optimizer = TableOptimizer(table, Optimizer(table=kind))  # type: ignore[arg-type]
    optimizer.step(torch.tensor([0, 3]), torch.ones(2, 2))
    assert (table[0] == 0).all()
    assert (table[3] < 1).all()
    assert (table[[1, 2, 4, 5]] == 1).all()


def test_adamw_equals_the_textbook_form() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, in numpy."""
    parameter = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    settings = Optimizer(dense_lr=0.01, first_lr=0.01, weight_decay=0.1)
    optimizer = DenseOptimizer([("w", parameter)], settings)
    w, m, v = np.array([1.0, -2.0, 0.5]), np.zeros(3), np.zeros(3)
    for t in range(1, 20):
        g = np.sin(np.arange(3) + t)
        w *= 1 - 0.01 * 0.1
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        w -= 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        optimizer.step([torch.from_numpy(g).float()], optimizer.rate(t - 1))
    np.testing.assert_allclose(parameter.detach().numpy(), w, rtol=1e-5)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_dense_optimiser_equals_that_of_torch(kind: str) -> None:
    ours, theirs = nn.Parameter(torch.ones(4, 3)), nn.Parameter(torch.ones(4, 3))
    settings = Optimizer(dense=kind, dense_lr=0.02, first_lr=0.02, weight_decay=0.1)  # type: ignore[arg-type]
    optimizer = DenseOptimizer([("w", ours)], settings)
    reference: torch.optim.Optimizer = torch.optim.SGD([theirs], 0.02, weight_decay=0.1)
    if kind == "adamw":
        reference = torch.optim.AdamW([theirs], 0.02, weight_decay=0.1)
    for t in range(10):
        gradient = torch.sin(torch.arange(12.0) + t).view(4, 3)
        optimizer.step([gradient.clone()], optimizer.rate(t))
        theirs.grad = gradient
        reference.step()
    torch.testing.assert_close(ours, theirs)


def test_the_rate_fades_from_the_first_to_the_lasting_one() -> None:
    """Plain gradient descent moves a number by the rate: 0.8, then half way down to 0.2, then 0.2."""
    moves = []
    for steps in (0, 100, 100_000):
        number = nn.Parameter(torch.zeros(1))
        settings = Optimizer(
            dense="sgd", dense_lr=0.2, first_lr=0.8, lr_half_life=100, weight_decay=0.0
        )
        optimizer = DenseOptimizer([("w", number)], settings)
        optimizer.step([torch.ones(1)], optimizer.rate(steps))
        moves.append(-float(number.detach()))
    assert moves == pytest.approx([0.8, 0.5, 0.2])


def test_a_parameter_without_gradient_keeps_value_and_moments() -> None:
    """Not even weight decay moves it."""
    still, moving = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = DenseOptimizer([("a", still), ("b", moving)], Optimizer(weight_decay=0.5))
    optimizer.step([None, torch.ones(2)], 0.01)
    assert (still == 1).all()
    assert (moving != 1).all()
    assert optimizer.state()["a/step"] == 0
    assert optimizer.state()["b/step"] == 1


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_restored_optimiser_goes_on_bit_for_bit(kind: str) -> None:
    settings = Optimizer(dense=kind)  # type: ignore[arg-type]
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    one, two = DenseOptimizer([("w", first)], settings), DenseOptimizer([("w", second)], settings)
    one.step([torch.tensor([0.1, 0.2, 0.3])], 0.01)
    two.restore(one.state())
    second.data.copy_(first.data)
    for optimizer in (one, two):
        optimizer.step([torch.tensor([0.3, -0.2, 0.1])], 0.02)
    assert torch.equal(first, second)


def test_state_of_another_shape_is_refused_by_name() -> None:
    small = DenseOptimizer([("w", nn.Parameter(torch.ones(3)))], Optimizer())
    large = DenseOptimizer([("w", nn.Parameter(torch.ones(4)))], Optimizer())
    with pytest.raises(StateError, match="w/exp_avg has shape"):
        large.restore(small.state())


def test_clipping_scales_only_what_is_too_long() -> None:
    gradients = [torch.tensor([3.0]), torch.tensor([4.0])]
    clip_(gradients, 5.0, 10.0)
    assert [g.item() for g in gradients] == [3.0, 4.0]
    clip_(gradients, 5.0, 1.0)
    assert [g.item() for g in gradients] == pytest.approx([0.6, 0.8])
