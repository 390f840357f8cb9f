"""The learner with every balancer: what it takes from gradients, and that nothing of it is lost or doubled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_mtl import config
from stream_mtl.backward import Backward, Forward, Gradients
from stream_mtl.balancers import BALANCERS
from stream_mtl.balancers.base import Balancer, GradientBalancer, Seen, Setup
from stream_mtl.batch import Batch, Spec
from stream_mtl.config import Config
from stream_mtl.layers import Parts
from stream_mtl.learner import Learner
from stream_mtl.lookup import lookup
from stream_mtl.models import MODELS
from stream_mtl.state import State, digest
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Place, Settings
from stream_mtl.testing_rows import SPEC, rows

NAMES = list(BALANCERS)
LOOKING = ["aligned", "cagrad", "gradnorm", "pcgrad", "upgrad"]
TWINS = Spec(("user", "item"), ("price", "rate"), ("one", "two"), 256, 0)


def learner(name: str, spec: Spec = SPEC, **more: Any) -> Learner:
    balancer = {"name": name, "window": 2, **more.pop("balancer", {})}
    sections: dict[str, Any] = {
        "model": {"embedding_dim": 4, "text_dim": 4, "experts": 2, "hidden": 16, "tower": 8},
        "memory": {"rows": 400},
        "balancer": balancer,
        **more,
    }
    return Learner(spec, Config.model_validate(sections), torch.device("cpu"))


def labelled(step: int) -> Batch:
    """64 rows; some steps lack a task."""
    batch = rows(64, first=64 * step)
    mask_BT = batch.mask_BT.clone()
    if step % 3:
        mask_BT[:, step % 3] = False
    return replace(batch, mask_BT=mask_BT)


def taught(name: str, steps: int, **more: Any) -> Learner:
    model = learner(name, **more)
    for step in range(steps):
        model.step(labelled(step))
    return model


def frozen(state: State) -> State:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in state.items()}


def twins(sign: int, gradients: str = "border", apart: bool = False, **more: Any) -> Learner:
    """Two tasks with the same labels (`sign` 1) or with opposite ones; `apart`: in different rows."""
    tasks = {name: {"kind": "binary"} for name in TWINS.tasks}
    settings = {"gradients": gradients, **more}
    model = learner("upgrad", TWINS, tasks=tasks, balancer=settings, rehearsal={"loss": "none"})
    narrow = replace(TWINS, tasks=("click", "purchase"))
    for step in range(30):
        batch = rows(64, first=64 * step, spec=narrow)
        first_B = (batch.dense_BD[:, 0] > 0).float()
        label_BT = torch.stack((first_B, first_B if sign > 0 else 1 - first_B), 1)
        mask_BT = torch.ones(64, 2, dtype=torch.bool)
        if apart:
            mask_BT[:32, 0] = False
            mask_BT[32:, 1] = False
        model.step(replace(batch, label_BT=label_BT, mask_BT=mask_BT))
    return model


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_any_step_and_restored_it_goes_on_bit_for_bit(name: str) -> None:
    """Tasks come and go, all memories fill, and the next steps are those of the undisturbed run."""
    straight = learner(name)
    for step in range(9):
        resumed = learner(name)
        resumed.restore(frozen(straight.state()))
        first, second = straight.step(labelled(step)), resumed.step(labelled(step))
        assert first == second
        assert digest(straight.state()) == digest(resumed.state())
        assert all(torch.tensor(list(first.weights.values())).isfinite())


@pytest.mark.parametrize("name", NAMES)
def test_refused_step_leaves_the_balancer_as_it_was(name: str) -> None:
    model = taught(name, 5)
    before = {k: v for k, v in frozen(model.state()).items() if not k.startswith("skipped")}
    batch = labelled(6)
    report = model.step(replace(batch, dense_BD=batch.dense_BD * float("nan")))
    assert report.nonfinite
    after = {k: v for k, v in model.state().items() if not k.startswith("skipped")}
    assert digest(before) == digest(after)


@pytest.mark.parametrize("name", NAMES)
def test_absent_task_keeps_its_head_with_every_balancer(name: str) -> None:
    model = taught(name, 4, rehearsal={"loss": "none"})
    before = frozen(model.state())
    batch = rows(64, first=900)
    mask_BT = batch.mask_BT.clone()
    mask_BT[:, 2] = False
    assert model.step(replace(batch, mask_BT=mask_BT)).weights["search"] == 0
    for key, value in model.state().items():
        if key.startswith("model/heads.2."):
            assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("gradients", ["border", "parameters"])
def test_looking_at_gradients_changes_none_of_them(gradients: str) -> None:
    """Fixed weights give the same step whether the graph is cut or not."""
    plain, looked = (
        learner("weighted", balancer={"affinity_every": every, "gradients": gradients})
        for every in (0, 1)
    )
    for step in range(6):
        first, second = plain.step(labelled(step)), looked.step(labelled(step))
        assert first.losses == pytest.approx(second.losses, rel=1e-4)
        assert first.weights == second.weights
        assert first.grad_norm == pytest.approx(second.grad_norm, rel=1e-4)


def test_affinity_is_off_by_default_and_measured_at_the_steps_asked_for() -> None:
    off = taught("weighted", 3)
    assert off.affinity().isnan().all()
    assert not [key for key in off.state() if key.startswith("affinity")]
    every_step, every_third = (
        taught("weighted", 7, balancer={"affinity_every": every}) for every in (1, 3)
    )
    # the towers of a new model end in zeros: at step 0 nothing comes back from them
    assert 5.5 < every_step.state()["affinity/weight_TT"][0, 0] <= 6
    assert 1.9 < every_third.state()["affinity/weight_TT"][0, 0] <= 2


@pytest.mark.parametrize("gradients", ["border", "parameters"])
def test_tasks_of_the_same_labels_agree_more_than_those_of_opposite_ones(gradients: str) -> None:
    same_TT, against_TT = twins(1, gradients).affinity(), twins(-1, gradients).affinity()
    torch.testing.assert_close(same_TT.diagonal(), torch.ones(2, dtype=torch.float64))
    assert same_TT[0, 1] > against_TT[0, 1] + 0.05
    assert same_TT[0, 1] > 0


def test_the_border_is_blind_between_tasks_whose_labels_come_in_different_rows() -> None:
    assert twins(1, apart=True).affinity()[0, 1] == 0
    assert twins(1, "parameters", apart=True).affinity()[0, 1] > 0.02


# --- one backward, looked at closely -----------------------------------------------------------


class Fixed:
    """A gradient balancer that mixes as it was told."""

    def __init__(self, mix_T: Tensor) -> None:
        self.mix_T, self.gram_TT = mix_T, torch.zeros(0)

    def mix(self, seen: Seen, gram_TT: Tensor) -> Tensor:
        self.gram_TT = gram_TT
        return self.mix_T

    def learn_mix(self, seen: Seen, gram_TT: Tensor) -> None: ...

    def state(self) -> State:
        return {}

    def restore(self, state: Any) -> None: ...


def backward_with(
    name: str, balancer: Balancer | GradientBalancer, gradients: str = "border"
) -> tuple[Backward, Forward, Tensor, Gradients]:
    kinds = [TASKS["binary"](Place(0, 0), Settings()), TASKS["listwise"](Place(1, 1), Settings())]
    settings = config.Model(name=name, embedding_dim=4, text_dim=5, experts=3, hidden=16, tower=8)
    random = torch.Generator().manual_seed(2)
    spec = replace(SPEC, tasks=("click", "search"))
    model = MODELS[name](Parts(spec, settings, kinds, random))
    for _, parameter in model.named_parameters():  # away from the start, where towers are zero
        parameter.data.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
    weight_T = torch.tensor([3.0, 1.0])
    chosen = config.Balancer(gradients=gradients)  # type: ignore[arg-type]
    made = Backward(model, kinds, balancer, weight_T, chosen)
    batch = rows(16)
    row_BL = lookup(spec, settings)(torch.arange(48).view(16, 3))
    row_U, inverse_BL = torch.unique(row_BL, return_inverse=True)
    touched_UH = torch.randn(len(row_U), 4, generator=random).requires_grad_()
    forward = made.forward(touched_UH, inverse_BL, batch, step=0)
    losses = [
        kind.loss(forward.logit_BC, batch.label_BT[:, t], batch.mask_BT[:, t], batch.list_key_B, batch.offset_B != 0).mean()
        for t, kind in enumerate(kinds)
    ]  # fmt: skip
    loss_T = torch.stack(losses)
    seen = Seen(loss_T.detach(), torch.tensor([True, True]), torch.tensor([16, 8]), 0)
    return made, forward, loss_T, made.backward(forward, loss_T, seen)


def alone(name: str, task: int) -> Gradients:
    """Gradients of one task's loss, without any cut."""
    only = BALANCERS["weighted"](Setup(torch.eye(2)[task], config.Balancer(), 0))
    return backward_with(name, only)[3]


@pytest.mark.parametrize("gradients", ["border", "parameters"])
@pytest.mark.parametrize("name", MODELS)
def test_shared_parts_get_the_mixed_gradient_and_heads_their_own(name: str, gradients: str) -> None:
    balancer = Fixed(torch.tensor([-0.5, 2.0]))
    made, _, _, found = backward_with(name, balancer, gradients)
    first, second = alone(name, 0), alone(name, 1)
    mixed_UH = -0.5 * first.touched_UH + 2 * second.touched_UH
    torch.testing.assert_close(found.touched_UH, mixed_UH, rtol=1e-4, atol=1e-6)
    for i, owner in enumerate(made._heads):
        parts = [one.dense[i] if one.dense[i] is not None else 0.0 for one in (first, second)]
        share = ((-0.5, 2.0), (0.75, 0.0), (0.0, 0.25))[owner + 1]
        expected = share[0] * parts[0] + share[1] * parts[1]  # type: ignore[operator]
        torch.testing.assert_close(found.dense[i], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_products_over_all_parameters_are_those_of_separate_backwards(name: str) -> None:
    balancer = Fixed(torch.ones(2))
    made, _, _, _ = backward_with(name, balancer, "parameters")
    flat = []
    for task in (0, 1):
        one = alone(name, task)
        shared = [g for g, owner in zip(one.dense, made._heads, strict=True) if owner < 0]
        flat.append(
            torch.cat([one.touched_UH.flatten(), *(g.flatten() for g in shared if g is not None)])
        )
    gradient_TN = torch.stack(flat)
    torch.testing.assert_close(balancer.gram_TT, gradient_TN @ gradient_TN.T, rtol=1e-3, atol=1e-6)


def test_only_those_five_look_at_gradients() -> None:
    setup = Setup(torch.ones(2), config.Balancer(), 0)
    made = {name: new(setup) for name, new in BALANCERS.items()}
    assert sorted(n for n, one in made.items() if isinstance(one, GradientBalancer)) == LOOKING
