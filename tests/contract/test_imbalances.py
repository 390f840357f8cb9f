"""Every loss for rare classes keeps what `imbalances/base.py` promises."""

from __future__ import annotations

import math
import pkgutil

import numpy as np
import pytest
import torch
from torch import Tensor

from stream_mtl import imbalances
from stream_mtl.imbalances import IMBALANCES
from stream_mtl.imbalances.base import Imbalance
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Place, Settings

WEIGHTS = (1.0, 6.0, 0.5)
ALL = [pytest.param(new(WEIGHTS, 2.0), id=name) for name, new in IMBALANCES.items()]
TRUE_K = torch.tensor([0.9, 0.04, 0.06], dtype=torch.float64)


def optimum(imbalance: Imbalance, rate_K: Tensor) -> Tensor:
    """Logits (1 x K) at which the expected loss of rows with these rates is least."""
    logit_1K = torch.zeros(1, len(rate_K), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([logit_1K], 0.5, max_iter=500, line_search_fn="strong_wolfe")

    def expected() -> Tensor:
        search.zero_grad()
        loss = (imbalance.costs(logit_1K)[0] * rate_K).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    search.step(expected)  # type: ignore[no-untyped-call]
    return logit_1K.detach()


@pytest.mark.parametrize("imbalance", ALL)
def test_what_is_served_at_the_optimum_is_the_true_rate(imbalance: Imbalance) -> None:
    served_K = imbalance.log_probability(optimum(imbalance, TRUE_K)).exp()[0]
    torch.testing.assert_close(served_K, TRUE_K, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("imbalance", ALL)
def test_costs_and_their_gradients_are_finite_and_not_negative_anywhere(
    imbalance: Imbalance,
) -> None:
    ends = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0])
    logit_BK = torch.cartesian_prod(ends, ends, ends).requires_grad_()
    cost_BK = imbalance.costs(logit_BK)
    cost_BK.sum().backward()
    assert logit_BK.grad is not None
    assert logit_BK.grad.isfinite().all()
    assert (cost_BK.isfinite() & (cost_BK >= 0)).all()
    said_BK = imbalance.log_probability(logit_BK.detach())
    assert (said_BK.isfinite() & (said_BK <= 0)).all()


@pytest.mark.parametrize("name", IMBALANCES)
def test_a_head_starts_where_it_says_the_rate(name: str) -> None:
    imbalance = IMBALANCES[name]((1.0, 4.0), 2.0)
    start = torch.tensor(imbalance.first_rate(0.05), dtype=torch.float64).logit()
    said_1K = imbalance.log_probability(torch.stack((start * 0, start)).unsqueeze(0))
    assert math.exp(said_1K[0, 1].item()) == pytest.approx(0.05, rel=1e-3)


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(imbalances.__path__)} - {"base"}
    assert files == {one.__module__.rsplit(".", 1)[1] for one in IMBALANCES.values()}  # type: ignore[attr-defined]


def test_focal_on_a_yes_or_no_is_torchvision_s_formula() -> None:
    """alpha_t (1 - p_t)^gamma * BCE (torchvision.ops.sigmoid_focal_loss, alpha 0.25, gamma 2), in numpy."""
    kind = TASKS["binary"](
        Place(0, 0), Settings(imbalance="focal", class_weights=(0.75, 0.25), focal_gamma=2.0)
    )
    logit_BC = 3 * torch.randn(80, 1, generator=torch.Generator().manual_seed(1)).double()
    label_B, known_B = torch.arange(80).double() % 2, torch.ones(80, dtype=torch.bool)
    loss_B = kind.loss(logit_BC, label_B, known_B, torch.zeros(80).long(), ~known_B)
    p, y = 1 / (1 + np.exp(-logit_BC[:, 0].numpy())), label_B.numpy()
    p_t, alpha_t = p * y + (1 - p) * (1 - y), 0.25 * y + 0.75 * (1 - y)
    np.testing.assert_allclose(loss_B.numpy(), -alpha_t * (1 - p_t) ** 2 * np.log(p_t), rtol=1e-6)


def test_focal_s_own_sigmoid_is_far_from_the_rate_that_is_served() -> None:
    """Why the correction: of 4 % the loss alone would say more than twice as much."""
    focal = IMBALANCES["focal"]((), 2.0)
    logit_1K = optimum(focal, torch.tensor([0.96, 0.04], dtype=torch.float64))
    assert logit_1K.softmax(1)[0, 1] > 0.1
    assert math.exp(focal.log_probability(logit_1K)[0, 1]) == pytest.approx(0.04, rel=1e-3)


def test_weighted_cross_entropy_is_torch_s_own_on_shifted_logits() -> None:
    logit_BC = torch.randn(60, 3, generator=torch.Generator().manual_seed(2)).double()
    label_B, known_B = torch.arange(60).double() % 3, torch.ones(60, dtype=torch.bool)
    kind = TASKS["multiclass"](
        Place(0, 0, 3),
        Settings(classes=3, imbalance="class_weights", class_weights=WEIGHTS),
    )
    loss_B = kind.loss(logit_BC, label_B, known_B, torch.zeros(60).long(), ~known_B)
    weight_K = torch.tensor(WEIGHTS).double()
    expected_B = torch.nn.functional.cross_entropy(
        logit_BC + weight_K.log(), label_B.long(), weight_K, reduction="none"
    )
    torch.testing.assert_close(loss_B, expected_B)
