"""Every way to learn from late labels keeps what `delays/base.py` promises, by itself and inside a task kind."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from stream_mtl import delays
from stream_mtl.delayed_kind import Delayed
from stream_mtl.delays import DELAYS
from stream_mtl.provisional import (
    LATE_YES,
    MATURE_LATE,
    MATURE_NO,
    MATURE_YES,
    SEEN_NO,
    SEEN_YES,
)
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Place, Settings, TaskKind
from stream_mtl.testing_rows import rows

CODES = [SEEN_NO, SEEN_YES, LATE_YES, MATURE_NO, MATURE_YES, MATURE_LATE]
NAMES = list(DELAYS)
UNBIASED = [name for name in DELAYS if name != "vanilla"]
RATES = [(0.2, 0.2), (0.2, 0.12), (0.05, 0.01), (0.45, 0.3)]  # p, and d of which comes late


def inside(kind: str, name: str) -> tuple[TaskKind, Delayed, int]:
    """The plain kind, the delayed one, and how many logits they read, the step before behind them."""
    heads = DELAYS[name].heads
    plain = TASKS[kind](Place(0, 0, 1 + heads), Settings(), [Place(1, 1 + heads)])
    return plain, Delayed(plain, DELAYS[name]), 2 + heads


def losses(kind: TaskKind, logit_BC: Tensor, told_B: Tensor, mask_B: Tensor) -> Tensor:
    key_B = torch.arange(len(told_B))
    return kind.loss(logit_BC, told_B, mask_B, key_B, torch.zeros_like(mask_B))


def population(p: float, d: float) -> dict[float, float]:
    """How often each code is told of a row, on average: d of the rate p comes after the wait."""
    return {
        SEEN_NO: 1 - p + d,
        SEEN_YES: p - d,
        LATE_YES: d,
        MATURE_NO: 1 - p,
        MATURE_YES: p - d,
        MATURE_LATE: d,
    }


def learned(name: str, p: float, d: float) -> tuple[float, Tensor]:
    """What an endless stream of like rows teaches: the served rate, and the helpers' rates."""
    shares = population(p, d)
    told_B, share_B = (
        torch.tensor(list(x), dtype=torch.float64) for x in zip(*shares.items(), strict=True)
    )
    logit_W = torch.full((1 + DELAYS[name].heads,), -2.0, dtype=torch.float64)
    logit_W.requires_grad_()
    kind = Delayed(TASKS["binary"](Place(0, 0), Settings()), DELAYS[name])
    mask_B = torch.ones(len(told_B), dtype=torch.bool)
    for _ in range(600):
        loss_B = losses(kind, logit_W.expand(len(told_B), -1), told_B, mask_B)
        (gradient_W,) = torch.autograd.grad((loss_B * share_B).sum(), logit_W)
        logit_W = (logit_W - 4.0 * gradient_W).detach().requires_grad_()
    output_W = kind.outputs(logit_W.detach().unsqueeze(0))[0]
    return float(output_W[0]), output_W[1:]


@pytest.mark.parametrize(("p", "d"), RATES)
@pytest.mark.parametrize("name", UNBIASED)
def test_an_endless_stream_teaches_the_true_rate(name: str, p: float, d: float) -> None:
    assert learned(name, p, d)[0] == pytest.approx(p, rel=1e-3)


@pytest.mark.parametrize(("p", "d"), RATES)
def test_without_correction_the_rate_is_too_low(p: float, d: float) -> None:
    """The naive variant: one row more for each late positive gives p / (1 + d)."""
    assert learned("vanilla", p, d)[0] == pytest.approx(p / (1 + d), rel=1e-3)


@pytest.mark.parametrize(("p", "d"), RATES)
@pytest.mark.parametrize("name", ["es_dfm", "defuse"])
def test_helpers_learn_who_is_late_and_which_negatives_are_not(
    name: str, p: float, d: float
) -> None:
    helper_H = learned(name, p, d)[1]
    np.testing.assert_allclose(helper_H.numpy(), [d, d / (1 - p + d)], rtol=2e-3)


@pytest.mark.parametrize("kind", ["binary", "funnel"])
@pytest.mark.parametrize("name", NAMES)
def test_a_true_label_has_the_loss_of_the_plain_kind(name: str, kind: str) -> None:
    """So a remembered row teaches what it teaches without delays."""
    plain, delayed, width = inside(kind, name)
    logit_BC = torch.randn(24, width, generator=torch.Generator().manual_seed(3))
    label_B, mask_B = rows(24).label_BT[:, 0], torch.arange(24) % 4 != 1
    assert torch.equal(
        losses(delayed, logit_BC, label_B, mask_B), losses(plain, logit_BC, label_B, mask_B)
    )


@pytest.mark.parametrize("kind", ["binary", "funnel"])
@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_are_finite_at_every_code_and_extreme_logits(
    name: str, kind: str
) -> None:
    _, delayed, width = inside(kind, name)
    ends = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0])
    logit_BC = torch.cartesian_prod(*[ends] * width).repeat(len(CODES), 1).requires_grad_()
    told_B = torch.tensor(CODES).repeat_interleave(len(logit_BC) // len(CODES))
    loss_B = losses(delayed, logit_BC, told_B, torch.ones(len(told_B), dtype=torch.bool))
    loss_B.sum().backward()
    assert logit_BC.grad is not None
    assert loss_B.isfinite().all()
    assert (loss_B >= 0).all()
    assert logit_BC.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_label_teaches_nothing(name: str) -> None:
    _, delayed, width = inside("funnel", name)
    logit_BC = torch.zeros(len(CODES), width, requires_grad=True)
    loss_B = losses(delayed, logit_BC, torch.tensor(CODES), torch.zeros(len(CODES)).bool())
    loss_B.sum().backward()
    assert logit_BC.grad is not None
    assert (loss_B == 0).all()
    assert (logit_BC.grad == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_served_is_a_probability_and_heads_are_as_wide_as_said(name: str) -> None:
    _, delayed, width = inside("binary", name)
    logit_BC = 8 * torch.randn(50, width, generator=torch.Generator().manual_seed(1))
    score_B = delayed.score(logit_BC)
    assert ((score_B > 0) & (score_B <= 1)).all()
    assert delayed.outputs(logit_BC).shape == (50, delayed.width)
    assert delayed.width - delayed.helpers == 1


@pytest.mark.parametrize("name", NAMES)
def test_matured_rows_move_the_helpers_alone(name: str) -> None:
    _, delayed, width = inside("funnel", name)
    logit_BC = torch.zeros(3, width, requires_grad=True)
    told_B = torch.tensor([MATURE_NO, MATURE_YES, MATURE_LATE])
    losses(delayed, logit_BC, told_B, torch.ones(3).bool()).sum().backward()
    assert logit_BC.grad is not None
    moved_C = logit_BC.grad.abs().sum(0) > 0
    assert moved_C.tolist() == [0 < c <= delayed.helpers for c in range(width)]


def _sp(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _weighted(
    yes: Callable[..., np.ndarray], no: Callable[..., np.ndarray]
) -> Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """z yes(p, d, f) sp(-x) + (1 - z) no(p, d, f) sp(x), z the label seen so far."""

    def loss(x: np.ndarray, z: np.ndarray, d: np.ndarray, f: np.ndarray) -> np.ndarray:
        p = _sigmoid(x)
        return z * yes(p, d, f) * _sp(-x) + (1 - z) * no(p, d, f) * _sp(x)

    return loss


FORMULAS = {
    "vanilla": _weighted(lambda p, d, f: 1.0, lambda p, d, f: 1.0),
    "fnc": _weighted(lambda p, d, f: 1.0, lambda p, d, f: 1.0),
    "fnw": _weighted(lambda p, d, f: 1 + p, lambda p, d, f: (1 - p) * (1 + p)),
    "es_dfm": _weighted(lambda p, d, f: 1 + d, lambda p, d, f: (1 + d) * (1 - f)),
    "defuse": lambda x, z, d, f: (
        z * _sp(-x) + (1 - z) * (f * d * _sp(-x) + (1 - f) * (1 + d) * _sp(x))
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_the_formulas_of_the_papers_and_weights_have_no_gradient(name: str) -> None:
    """Negatives as first told, late positives as told again; the gradient is that of sp alone, weights held."""
    random = np.random.default_rng(4)
    x, dx, fx = (2 * random.normal(size=40) for _ in range(3))
    z = (np.arange(40) % 3 == 0).astype(float)
    logit_BC = torch.tensor(np.stack((x, dx, fx), 1)[:, : 1 + DELAYS[name].heads])
    logit_BC.requires_grad_()
    kind = Delayed(TASKS["binary"](Place(0, 0), Settings()), DELAYS[name])
    told_B = torch.tensor(np.where(z == 1, LATE_YES, SEEN_NO))
    loss_B = losses(kind, logit_BC, told_B, torch.ones(40).bool())
    d, f = _sigmoid(dx), _sigmoid(fx)
    np.testing.assert_allclose(loss_B.detach().numpy(), FORMULAS[name](x, z, d, f), rtol=1e-9)
    loss_B.sum().backward()
    assert logit_BC.grad is not None
    held = FORMULAS[name]
    if name == "fnw":  # p held where it stands
        p = _sigmoid(x)
        held = _weighted(lambda *_: 1 + p, lambda *_: (1 - p) * (1 + p))
    slope = (held(x + 1e-5, z, d, f) - held(x - 1e-5, z, d, f)) / 2e-5
    np.testing.assert_allclose(logit_BC.grad[:, 0].numpy(), slope, atol=1e-6)
    assert (logit_BC.grad[:, 1:] == 0).all()


def test_in_a_funnel_the_weights_are_those_of_the_whole_way() -> None:
    """p of FNW is P(click and buy), not P(buy | click)."""
    _, delayed, _ = inside("funnel", "fnw")
    logit_BC = torch.tensor([[0.3, -0.7], [1.0, 0.2]], dtype=torch.float64)
    p_B = logit_BC.sigmoid().prod(1)
    told_B = torch.tensor([LATE_YES, SEEN_NO])
    loss_B = losses(delayed, logit_BC, told_B, torch.ones(2).bool())
    expected = [-(1 + p_B[0]) * p_B[0].log(), -(1 - p_B[1] ** 2) * (1 - p_B[1]).log()]
    torch.testing.assert_close(loss_B, torch.stack(expected), rtol=1e-5, atol=1e-7)


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(delays.__path__)} - {"base"}
    assert files == set(DELAYS)
