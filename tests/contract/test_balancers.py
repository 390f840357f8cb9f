"""Every balancer keeps what `balancers/base.py` promises."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stream_mtl import balancers, config
from stream_mtl.balancers import BALANCERS
from stream_mtl.balancers.base import Balancer, GradientBalancer, Seen, Setup
from stream_mtl.errors import StateError
from stream_mtl.state import State, digest

New = Callable[[Setup], Balancer | GradientBalancer]
CASES = [pytest.param(new, id=name) for name, new in BALANCERS.items()]
WEIGHT_T = torch.tensor([2.0, 1.0, 3.0])
ALL = torch.ones(3, dtype=torch.bool)
WINDOW = 3  # so that a short history fills every window
DRAWN = {"random", "pcgrad"}  # what is drawn does not follow the order of the tasks


def setup(weight_T: Tensor = WEIGHT_T) -> Setup:
    return Setup(weight_T, config.Balancer(window=WINDOW), 5)


def cases(*without: str) -> list[object]:
    return [pytest.param(new, id=name) for name, new in BALANCERS.items() if name not in without]


def made(step: int, active_T: Tensor = ALL) -> Seen:
    """Losses of one step: falling at three speeds, with noise."""
    random = torch.Generator().manual_seed(step)
    falling_T = torch.tensor([0.9, 0.5, 0.7]) * torch.tensor([0.97, 1.0, 0.9]) ** step
    loss_T = falling_T * (1 + 0.1 * torch.randn(3, generator=random))
    rows_T = torch.tensor([500, 20, 100]) + step
    return Seen(loss_T * active_T, active_T, rows_T * active_T, step)


def gram(seen: Seen) -> Tensor:
    """Inner products of gradients of the active tasks, with conflicts."""
    random = torch.Generator().manual_seed(seen.step + 1000)
    gradient_TN = torch.randn(3, 4, generator=random) * seen.active_T[:, None]
    return gradient_TN @ gradient_TN.T


def weigh(balancer: Balancer | GradientBalancer, seen: Seen, gram_TT: Tensor) -> Tensor:
    if isinstance(balancer, GradientBalancer):
        return balancer.mix(seen, gram_TT)
    return balancer.weights(seen)


def learn(balancer: Balancer | GradientBalancer, seen: Seen, gram_TT: Tensor) -> None:
    if isinstance(balancer, GradientBalancer):
        balancer.learn_mix(seen, gram_TT)
    else:
        fallen_T = torch.tensor([0.99, 1.001, 0.97])[-len(seen.loss_T) :]
        balancer.learn(seen, lambda: seen.loss_T * fallen_T)


def taught(new: New, steps: int = 2 * WINDOW + 2) -> Balancer | GradientBalancer:
    balancer = new(setup())
    for step in range(steps):
        learn(balancer, made(step), gram(made(step)))
    return balancer


def picked(seen: Seen, index: list[int]) -> Seen:
    return Seen(seen.loss_T[index], seen.active_T[index], seen.rows_T[index], seen.step)


def frozen(state: State) -> State:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


@pytest.mark.parametrize("new", CASES)
def test_weights_are_finite_and_the_shares_sum_to_one(new: New) -> None:
    balancer = taught(new)
    weight_T = weigh(balancer, made(20), gram(made(20)))
    assert weight_T.dtype == torch.float32
    assert weight_T.shape == (3,)
    assert weight_T.isfinite().all()
    if not isinstance(balancer, GradientBalancer):
        assert (weight_T >= 0).all()
        total = 6.0 if new is BALANCERS["sum"] else 1.0
        torch.testing.assert_close(weight_T.sum(), torch.tensor(total))


@pytest.mark.parametrize("new", cases("random"))
def test_task_that_never_comes_leaves_the_weights_of_a_shop_without_it(new: New) -> None:
    """At every step of a history in which one of three tasks is always inactive."""
    three, two = new(setup()), new(setup(WEIGHT_T[[0, 2]]))
    for step in range(2 * WINDOW + 3):
        seen = made(step, torch.tensor([True, False, True]))
        gram_TT, other = gram(seen), picked(seen, [0, 2])
        weight_T = weigh(three, seen, gram_TT)
        assert weight_T[1] == 0
        gram_two = gram_TT[[0, 2]][:, [0, 2]]
        torch.testing.assert_close(weight_T[[0, 2]], weigh(two, other, gram_two))
        for balancer, one, products in ((three, seen, gram_TT), (two, other, gram_two)):
            if isinstance(balancer, GradientBalancer):
                balancer.learn_mix(one, products)
            else:
                balancer.learn(one, lambda one=one: one.loss_T * (0.9 + 0.1 * one.loss_T))


@pytest.mark.parametrize("new", CASES)
def test_task_that_is_absent_for_a_step_keeps_its_own_state(new: New) -> None:
    """And is not taken for solved: when it comes again, its windows are those from before."""
    balancer = taught(new)
    before = frozen(balancer.state())
    seen = made(20, torch.tensor([True, False, True]))
    learn(balancer, seen, gram(seen))
    for name, value in balancer.state().items():
        assert torch.equal(value[1], before[name][1]), name


@pytest.mark.parametrize("new", cases("aligned", "cagrad", "gradnorm", "max", "pcgrad", "upgrad"))
def test_absence_of_a_task_only_rescales_the_others(new: New) -> None:
    balancer = taught(new)
    assert not isinstance(balancer, GradientBalancer)
    whole_T = balancer.weights(made(20))
    part_T = balancer.weights(made(20, torch.tensor([True, False, True])))
    torch.testing.assert_close(part_T[0] / part_T[2], whole_T[0] / whole_T[2])


@pytest.mark.parametrize("new", cases(*DRAWN))
def test_order_of_tasks_does_not_matter(new: New) -> None:
    order = [2, 0, 1]
    straight, turned = new(setup()), new(setup(WEIGHT_T[order]))
    for step in range(2 * WINDOW + 3):
        seen, gram_TT = made(step), gram(made(step))
        seen_turned, gram_turned = picked(seen, order), gram_TT[order][:, order]
        torch.testing.assert_close(
            weigh(turned, seen_turned, gram_turned), weigh(straight, seen, gram_TT)[order]
        )
        for balancer, one, products in (
            (straight, seen, gram_TT),
            (turned, seen_turned, gram_turned),
        ):
            if isinstance(balancer, GradientBalancer):
                balancer.learn_mix(one, products)
            else:
                balancer.learn(one, lambda one=one: one.loss_T * (0.9 + 0.1 * one.loss_T))


@pytest.mark.parametrize("new", CASES)
def test_single_task_gets_its_plain_gradient(new: New) -> None:
    seen = made(20, torch.tensor([False, True, False]))
    weight_T = weigh(taught(new), seen, gram(seen))
    torch.testing.assert_close(weight_T, torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize("new", CASES)
def test_no_active_task_gives_no_weights_and_moves_nothing(new: New) -> None:
    balancer = taught(new)
    before = digest(balancer.state())
    seen = made(20, torch.zeros(3, dtype=torch.bool))
    assert (weigh(balancer, seen, gram(seen)) == 0).all()
    learn(balancer, seen, gram(seen))
    assert digest(balancer.state()) == before


@pytest.mark.parametrize("loss", [0.0, 1e-30, 1e30, float("inf")])
@pytest.mark.parametrize("new", CASES)
def test_solved_or_exploding_task_leaves_all_weights_finite(new: New, loss: float) -> None:
    """While it lasts, and afterwards: within a few windows the others have weight again."""
    balancer = taught(new)
    for step in range(20, 30):
        seen = made(step)
        seen = replace(seen, loss_T=torch.cat((torch.tensor([loss]), seen.loss_T[1:])))
        gram_TT = gram(seen)
        gram_TT[0], gram_TT[:, 0] = 0.0, 0.0
        gram_TT[0, 0] = min(loss, 1e15) ** 2
        assert weigh(balancer, seen, gram_TT).isfinite().all()
        learn(balancer, seen, gram_TT)
    for value in balancer.state().values():
        assert value.isfinite().all()
    for step in range(30, 100):
        learn(balancer, made(step), gram(made(step)))
    weight_T = weigh(balancer, made(100), gram(made(100)))
    assert weight_T.isfinite().all()
    assert weight_T[1:].abs().max() > 0.01


@pytest.mark.parametrize("new", CASES)
def test_gradients_that_are_not_finite_raise_nothing(new: New) -> None:
    """The step is refused by the learner, which looks at the norm of everything."""
    gram_TT = gram(made(20))
    gram_TT[0, 1] = gram_TT[1, 0] = float("nan")
    assert weigh(taught(new), made(20), gram_TT).shape == (3,)


@pytest.mark.parametrize("new", CASES)
def test_weighing_changes_nothing(new: New) -> None:
    """A step may be refused after its weights were asked for."""
    balancer = taught(new)
    before = digest(balancer.state())
    first_T = weigh(balancer, made(20), gram(made(20)))
    torch.rand(3)  # the global generator plays no part
    assert torch.equal(first_T, weigh(balancer, made(20), gram(made(20))))
    assert digest(balancer.state()) == before


@pytest.mark.parametrize("new", CASES)
def test_restored_at_any_step_it_goes_on_bit_for_bit(new: New) -> None:
    absent = torch.tensor([True, True, False])
    for stop in range(2 * WINDOW + 3):
        straight, resumed = taught(new, stop), new(setup())
        resumed.restore(frozen(straight.state()))
        for step in range(stop, stop + 2 * WINDOW + 2):
            seen = made(step, absent if step % 3 == 1 else ALL)
            assert torch.equal(weigh(straight, seen, gram(seen)), weigh(resumed, seen, gram(seen)))
            for balancer in (straight, resumed):
                learn(balancer, seen, gram(seen))
        assert digest(straight.state()) == digest(resumed.state())


@pytest.mark.parametrize("new", CASES)
def test_state_of_other_tasks_is_refused(new: New) -> None:
    balancer, other = new(setup()), new(setup(torch.ones(4)))
    if balancer.state():
        with pytest.raises(StateError):
            balancer.restore(other.state())


@pytest.mark.parametrize("new", CASES)
def test_declared_importance_counts(new: New) -> None:
    """A task of ten times the importance weighs more than it would among equals; `mean` alone is deaf."""
    if new is BALANCERS["mean"]:
        return
    seen = made(0)
    agreeing_TT = torch.eye(3) + 0.1  # gradients alike in size, none against another
    equal_T = weigh(new(setup(torch.ones(3))), seen, agreeing_TT)
    raised_T = weigh(new(setup(torch.tensor([1.0, 1.0, 10.0]))), seen, agreeing_TT)
    assert raised_T[2] / raised_T.sum() > equal_T[2] / equal_T.sum()


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(balancers.__path__)} - {"base"}
    assert files == {new.__module__.rsplit(".", 1)[1] for new in BALANCERS.values()}  # type: ignore[attr-defined]
