"""Balancers against what the papers say, by torchjd where it has the method, else by a formula written anew."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_mtl import config
from stream_mtl.balancers import BALANCERS
from stream_mtl.balancers.base import Balancer, GradientBalancer, Seen, Setup
from stream_mtl.hashing import hash64

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its solver looks for every other solver, old ones too
    from torchjd.aggregation import (
        AlignedMTLWeighting,
        CAGradWeighting,
        PCGradWeighting,
        UPGradWeighting,
    )
    from torchjd.scalarization import DWA, FAMO, STCH, UW

Weigh = Callable[[Tensor], Tensor]
SIZES = (2, 3, 5, 16)


def balancer(name: str, weight_T: Tensor, **settings: Any) -> Balancer:
    made = BALANCERS[name](Setup(weight_T, config.Balancer(name=name, **settings), 0))
    assert not isinstance(made, GradientBalancer)
    return made


def mixer(name: str, weight_T: Tensor, **settings: Any) -> GradientBalancer:
    made = BALANCERS[name](Setup(weight_T, config.Balancer(name=name, **settings), 0))
    assert isinstance(made, GradientBalancer)
    return made


def seen(loss_T: Tensor, step: int = 0, rows_T: Tensor | None = None) -> Seen:
    on_T = torch.ones(len(loss_T), dtype=torch.bool)
    return Seen(loss_T, on_T, on_T.long() if rows_T is None else rows_T, step)


def losses(step: int, tasks: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(step)
    return (0.3 + torch.rand(tasks, generator=random)) * torch.linspace(0.98, 1, tasks) ** step


def fallen(step: int, tasks: int = 3) -> Tensor:
    """Losses of the same rows after the step."""
    random = torch.Generator().manual_seed(step + 500)
    return losses(step, tasks) * (1.01 - 0.05 * torch.rand(tasks, generator=random))


def slopes(scalarizer: Weigh, loss_T: Tensor) -> Tensor:
    """Weights of the losses in a scalarisation, summing to 1."""
    loss_T = loss_T.clone().requires_grad_()
    (slope_T,) = torch.autograd.grad(scalarizer(loss_T), loss_T)
    return slope_T / slope_T.sum()


def jacobian(seed: int, tasks: int, numbers: int = 24) -> Tensor:
    """Gradients with conflicts, of sizes from 1 to 4."""
    random = torch.Generator().manual_seed(seed)
    gradient_TN = torch.randn(tasks, numbers, generator=random)
    gradient_TN -= 0.5 * gradient_TN.mean(0)
    return gradient_TN * torch.linspace(1, 4, tasks)[:, None]


# --- from losses ---------------------------------------------------------------------------------


def test_sum_and_pooled_weigh_by_importance_and_by_labels() -> None:
    weight_T, rows_T = torch.tensor([1.0, 2.0]), torch.tensor([300, 50])
    one = seen(torch.tensor([0.5, 0.9]), rows_T=rows_T)
    assert balancer("sum", weight_T).weights(one).tolist() == [1.0, 2.0]
    expected_T = torch.tensor([300.0, 100.0]) / 400
    torch.testing.assert_close(balancer("pooled", weight_T).weights(one), expected_T)


def test_max_picks_the_largest_product_of_importance_and_loss() -> None:
    one = seen(torch.tensor([0.9, 0.5, 0.7]))
    assert balancer("max", torch.ones(3)).weights(one).tolist() == [1, 0, 0]
    assert balancer("max", torch.tensor([1.0, 2.0, 1.0])).weights(one).tolist() == [0, 1, 0]


@pytest.mark.parametrize("mu", [0.01, 0.1, 1.0])
def test_smooth_max_has_the_slopes_of_stch(mu: float) -> None:
    weight_T = torch.tensor([0.5, 1.0, 1.5])
    ours = balancer("smooth_max", weight_T, mu=mu, window=1)
    theirs = STCH(mu, weights=weight_T)
    for step in range(5):
        expected_T = slopes(theirs, losses(step))
        torch.testing.assert_close(ours.weights(seen(losses(step))), expected_T)
        ours.learn(seen(losses(step)), lambda: losses(0))


def test_uncertainty_weights_follow_those_that_adam_trains() -> None:
    ours, theirs = balancer("uw", torch.ones(3), lr=0.05, window=1), UW(3)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.05)
    for step in range(60):
        torch.testing.assert_close(
            ours.weights(seen(losses(step))), slopes(theirs, losses(step)), rtol=1e-5, atol=1e-6
        )
        optimizer.zero_grad()
        theirs(losses(step)).backward()
        optimizer.step()
        ours.learn(seen(losses(step)), lambda: losses(0))
    weight_T = ours.weights(seen(losses(60)))
    assert weight_T[0] > 1.5 * weight_T[2]  # the smallest loss has the largest weight


def test_uncertainty_weights_rest_where_they_are_inverse_to_the_losses() -> None:
    ours, loss_T = balancer("uw", torch.ones(2)), torch.tensor([0.5, 2.0])
    for step in range(600):
        ours.learn(seen(loss_T, step), lambda: loss_T)
    torch.testing.assert_close(
        ours.weights(seen(loss_T)), torch.tensor([0.8, 0.2]), rtol=1e-2, atol=0
    )


def test_closed_form_uncertainty_is_a_softmax_of_inverse_losses() -> None:
    ours = balancer("uw_so", torch.ones(2), temperature=2.0, window=1)
    first, second = math.exp(1 / 0.5 / 2), math.exp(1 / 0.8 / 2)
    weight_T = ours.weights(seen(torch.tensor([0.5, 0.8])))
    torch.testing.assert_close(weight_T[0].item(), first / (first + second), rtol=1e-5, atol=0)


@pytest.mark.parametrize("window", [1, 4])
def test_dwa_is_that_of_epochs_as_long_as_the_window(window: int) -> None:
    ours, theirs = balancer("dwa", torch.ones(3), window=window), DWA(2.0)
    for step in range(6 * window):
        expected_T = slopes(theirs, losses(step))
        torch.testing.assert_close(ours.weights(seen(losses(step))), expected_T)
        ours.learn(seen(losses(step)), lambda: losses(0))
        theirs(losses(step))
        if step % window == window - 1:
            theirs.step()


def recap(history: Sequence[Sequence[float]], window: int, slow: bool) -> list[float]:
    """The paper's formula, a task at a time."""
    scores = []
    for values in zip(*history[-2 * window :], strict=True):
        older, newer = statistics.mean(values[:window]), statistics.mean(values[window:])
        speed = newer / older if slow else older / newer
        scores.append(math.exp((speed + statistics.stdev(values) / (newer + older)) / 5.0))
    return [score / sum(scores) for score in scores]


@pytest.mark.parametrize("name", ["recap", "recap_slow"])
def test_recap_weighs_by_change_and_spread_of_the_last_two_windows(name: str) -> None:
    ours, history = balancer(name, torch.ones(3), window=4), []
    for step in range(20):
        weight_T = ours.weights(seen(losses(step)))
        history.append(losses(step).tolist())
        expected = recap(history, 4, name == "recap_slow") if step >= 7 else [1 / 3] * 3
        assert weight_T.tolist() == pytest.approx(expected, rel=1e-5)
        ours.learn(seen(losses(step)), lambda: losses(0))


def test_the_two_signs_of_recap_disagree_on_a_task_that_improves() -> None:
    falling = [torch.tensor([0.98**step, 1.0]) for step in range(21)]
    weights = {}
    for name in ("recap", "recap_slow"):
        ours = balancer(name, torch.ones(2), window=10)
        for loss_T in falling[:-1]:
            ours.learn(seen(loss_T), lambda: losses(0))
        weights[name] = ours.weights(seen(falling[-1]))[0].item()
    assert weights["recap"] > 0.5 > weights["recap_slow"] - 0.02
    assert weights["recap"] > weights["recap_slow"]


def test_famo_follows_the_published_one() -> None:
    ours = balancer("famo", torch.ones(3), window=1, lr=0.05, decay=1e-3)
    theirs = FAMO(3, lr=0.05, weight_decay=1e-3)
    for step in range(80):
        torch.testing.assert_close(
            ours.weights(seen(losses(step))), slopes(theirs, losses(step)), rtol=1e-4, atol=1e-6
        )
        theirs(losses(step))
        theirs.update(fallen(step))
        ours.learn(seen(losses(step)), lambda step=step: fallen(step))


def test_famo_gives_more_to_a_task_that_stands_still() -> None:
    ours, loss_T = balancer("famo", torch.ones(2)), torch.tensor([0.8, 0.8])
    for step in range(50):
        ours.learn(seen(loss_T, step), lambda: torch.tensor([0.8, 0.7]))
    assert ours.weights(seen(loss_T))[0] > 0.7


def test_random_weights_change_with_step_and_seed_alone() -> None:
    on = torch.ones(3)
    ours = balancer("random", on)
    first_T, second_T = (ours.weights(seen(on, step)) for step in (0, 1))
    assert not torch.equal(first_T, second_T)
    assert torch.equal(first_T, balancer("random", on).weights(seen(on * 2, 0)))
    drawn = torch.stack([ours.weights(seen(on, step)) for step in range(2000)])
    torch.testing.assert_close(drawn.mean(0), on / 3, rtol=0.05, atol=0)


# --- from gradients ------------------------------------------------------------------------------


def mixed(ours: GradientBalancer, gradient_TN: Tensor, step: int = 0) -> Tensor:
    return ours.mix(seen(torch.ones(len(gradient_TN)), step), gradient_TN @ gradient_TN.T)


@pytest.mark.parametrize("tasks", SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_upgrad_mixes_like_torchjd(tasks: int, seed: int) -> None:
    gradient_TN = jacobian(seed, tasks)
    weight_T = 1 + torch.arange(tasks).float()
    expected_T = UPGradWeighting(weight_T / weight_T.sum())(gradient_TN @ gradient_TN.T)
    torch.testing.assert_close(
        mixed(mixer("upgrad", weight_T), gradient_TN), expected_T, rtol=1e-3, atol=1e-3
    )


def test_upgrad_gives_the_vector_of_torchjd() -> None:
    gradient_TN = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    weight_T = mixed(mixer("upgrad", torch.ones(2)), gradient_TN)
    torch.testing.assert_close(weight_T, torch.tensor([1.1109, 0.7894]), rtol=0, atol=1e-3)
    expected_N = torch.tensor([0.2929, 1.9004, 1.9004])
    torch.testing.assert_close(weight_T @ gradient_TN, expected_N, rtol=0, atol=1e-3)


@pytest.mark.parametrize("tasks", SIZES)
def test_upgrad_harms_no_task_where_the_mean_does(tasks: int) -> None:
    harmed = 0
    for seed in range(20):
        gradient_TN = jacobian(seed, tasks)
        product_T = gradient_TN @ (
            mixed(mixer("upgrad", torch.ones(tasks)), gradient_TN) @ gradient_TN
        )
        assert product_T.min() > -1e-2 * product_T.abs().max()
        harmed += int((gradient_TN @ gradient_TN.mean(0)).min() < 0)
    assert harmed > 0


@pytest.mark.parametrize("name", ["upgrad", "pcgrad"])
def test_gradients_without_conflict_are_averaged_by_importance(name: str) -> None:
    weight_T = torch.tensor([1.0, 2.0, 5.0])
    gradient_TN = torch.rand(3, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mixed(mixer(name, weight_T), gradient_TN), weight_T / 8)


@pytest.mark.parametrize("tasks", SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_aligned_mixes_like_torchjd(tasks: int, seed: int) -> None:
    gradient_TN = jacobian(seed, tasks).double()
    weight_T = 1 + torch.arange(tasks).double()
    expected_T = AlignedMTLWeighting(weight_T / weight_T.sum())(gradient_TN @ gradient_TN.T)
    ours_T = mixed(mixer("aligned", weight_T), gradient_TN)
    torch.testing.assert_close(ours_T, expected_T.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("c", [0.2, 0.4, 0.8])
@pytest.mark.parametrize("tasks", SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_cagrad_mixes_like_torchjd(tasks: int, seed: int, c: float) -> None:
    gradient_TN = jacobian(seed, tasks).double()
    expected_T = CAGradWeighting(c)(gradient_TN @ gradient_TN.T) / (1 + c)
    ours_T = mixed(mixer("cagrad", torch.ones(tasks), c=c), gradient_TN)
    torch.testing.assert_close(ours_T, expected_T.float(), rtol=1e-3, atol=1e-3)


def test_cagrad_helps_the_worst_task_more_than_the_mean_does() -> None:
    """What the paper's problem (3) is about; and the direction stays in its ball."""
    for seed in range(10):
        gradient_TN = jacobian(seed, 3)
        mean_N = gradient_TN.mean(0)
        direction_N = 1.4 * mixed(mixer("cagrad", torch.ones(3), c=0.4), gradient_TN) @ gradient_TN
        assert (gradient_TN @ direction_N).min() > (gradient_TN @ mean_N).min()
        torch.testing.assert_close((direction_N - mean_N).norm(), 0.4 * mean_N.norm())


@pytest.mark.parametrize("tasks", SIZES)
@pytest.mark.parametrize("seed", range(5))
def test_pcgrad_mixes_like_torchjd_in_the_same_order(tasks: int, seed: int) -> None:
    gradient_TN = jacobian(seed, tasks)
    ours_T = mixed(mixer("pcgrad", torch.ones(tasks)), gradient_TN, step=seed)
    torch.manual_seed(hash64(f"balancer/0/{seed}"))
    expected_T = PCGradWeighting()(gradient_TN @ gradient_TN.T) / tasks
    torch.testing.assert_close(ours_T, expected_T, rtol=1e-3, atol=1e-3)


def test_size_of_the_gradients_changes_no_mixture() -> None:
    """A mean over many rows is as good as over few: thresholds are relative."""
    gradient_TN = jacobian(3, 4)
    for name in ("aligned", "cagrad", "pcgrad", "upgrad"):
        plain_T = mixed(mixer(name, torch.ones(4)), gradient_TN)
        small_T = mixed(mixer(name, torch.ones(4)), gradient_TN * 1e-5)
        torch.testing.assert_close(small_T, plain_T, rtol=1e-3, atol=1e-4)


def test_gradnorm_follows_the_slope_of_its_own_loss() -> None:
    """Against autograd on the published loss, Adam from torch, weights scaled back to their number."""
    alpha, norm_T = 1.5, torch.tensor([1.0, 3.0, 0.5])
    ours = mixer("gradnorm", torch.ones(3), lr=0.025, alpha=alpha, window=1)
    v_T = torch.ones(3, requires_grad=True)
    optimizer = torch.optim.Adam([v_T], lr=0.025)
    first_T = losses(0)
    for step in range(40):
        loss_T = losses(step)
        gram_TT = torch.diag(norm_T * (1 + 0.1 * losses(step + 70))) ** 2
        torch.testing.assert_close(
            ours.mix(seen(loss_T, step), gram_TT), v_T.detach() / 3, rtol=1e-4, atol=1e-5
        )
        size_T = v_T * gram_TT.diagonal().sqrt()
        speed_T = loss_T / first_T / (loss_T / first_T).mean()
        wanted_T = (size_T.mean() * speed_T**alpha).detach()
        optimizer.zero_grad()
        (size_T - wanted_T).abs().sum().backward()
        optimizer.step()
        v_T.data *= 3 / v_T.data.sum()
        ours.learn_mix(seen(loss_T, step), gram_TT)
    assert v_T[1] < v_T[0] < v_T[2]  # the larger the gradient, the smaller its weight
