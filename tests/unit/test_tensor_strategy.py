"""Avalanche's plugins on our learner do what they do in Avalanche's own loop, and what their papers say."""

from __future__ import annotations

import copy
import io
import warnings
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stream_mtl.batch import Batch, Spec, empty
from stream_mtl.config import Config
from stream_mtl.learner import Learner
from stream_mtl.regularizers import REGULARIZERS
from stream_mtl.tensor_strategy import TensorStrategy

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
SPEC = Spec((), tuple(f"x{i}" for i in range(6)), ("kind",), 1, 0)
RATE, BATCH, STEPS = 0.05, 8, 25  # of a span


def learner(regularizer: str, strength: float, rows: int = 1_024) -> Learner:
    """Plain SGD on one head of three classes, without rehearsal, scaling or clipping."""
    settings = {
        "tasks": {"kind": {"kind": "multiclass", "classes": 3}},
        "scoring": {"value": {"kind": 1.0}, "search_value": {"kind": 1.0}},
        "model": {"name": "shared_bottom", "embedding_dim": 1, "hidden": 8, "tower": 8},
        "balancer": {"name": "mean", "normalize": False},
        "memory": {"rows": 1_000},
        "rehearsal": {
            "loss": "none",
            "regularizer": regularizer,
            "regularizer_strength": strength,
            "regularizer_rows": rows,
        },
        "optimizer": {
            "dense": "sgd",
            "dense_lr": RATE,
            "first_lr": RATE,
            "weight_decay": 0.0,
            "clip_norm": 1e6,
        },
        "learner": {"average": 0.0},
    }
    return Learner(SPEC, Config.model_validate(settings), torch.device("cpu"))


def data(span: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(span)
    x_NP = torch.randn(BATCH * STEPS, 6, generator=random) + span
    return x_NP, torch.randint(0, 3, (BATCH * STEPS,), generator=random)


def batch(x_BP: Tensor, y_B: Tensor, first: int = 0) -> Batch:
    number_B = torch.arange(first, first + len(x_BP))
    return replace(
        empty(SPEC, len(x_BP)),
        dense_BD=x_BP,
        label_BT=y_B.float().unsqueeze(1),
        mask_BT=torch.ones(len(x_BP), 1, dtype=torch.bool),
        row_key_B=number_B,
        list_key_B=number_B,
    )


def taught(model: Learner, spans: int = 1) -> Learner:
    for span in range(spans):
        x_NP, y_N = data(span)
        for at in range(0, len(x_NP), BATCH):
            part = slice(at, at + BATCH)
            model.step(batch(x_NP[part], y_N[part], span * len(x_NP) + at))
        model.consolidate()
    return model


def strategy(model: Learner) -> TensorStrategy:
    found = model._regularizer
    assert isinstance(found, TensorStrategy)
    return found


def flat(named: dict[str, Any]) -> Tensor:
    return torch.cat([one.data.flatten() for one in named.values()])


class Plain(nn.Module):
    """The learner's model for Avalanche's own loop."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = copy.deepcopy(model)

    def forward(self, x_BP: Tensor) -> Tensor:
        logit_BC: Tensor = self.inner(torch.zeros(len(x_BP), 0, 1), batch(x_BP, x_BP[:, 0]))
        return logit_BC


def native(model: nn.Module, plugin: Any, spans: int) -> nn.Module:
    """Avalanche's `Naive` with the plugin, an experience a span, rows in the same order."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils.classification_dataset import (
        _make_taskaware_tensor_classification_dataset as dataset,
    )
    from avalanche.training.supervised import Naive

    plain = Plain(model)
    trained = Naive(
        model=plain,
        optimizer=torch.optim.SGD(plain.parameters(), lr=RATE),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        plugins=[plugin],
        evaluator=None,
    )
    parts = [
        dataset(x_NP, y_N, task_labels=0, targets=y_N.tolist())
        for x_NP, y_N in map(data, range(spans))
    ]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        for experience in benchmark_from_datasets(train=parts).streams["train"]:
            trained.train(experience, shuffle=False, num_workers=0)
    return plain.inner


@pytest.mark.parametrize("strength, spans", [(0.0, 2), (1.0, 3), (10.0, 3)])
def test_rwalk_makes_the_same_model_as_in_avalanche_s_own_loop(strength: float, spans: int) -> None:
    """It uses every hook and no data set, so rows, losses and updates can be the same in both."""
    from avalanche.training.plugins import RWalkPlugin

    model = learner("rwalk", strength)
    theirs = native(model._model, RWalkPlugin(strength), spans)  # type: ignore[arg-type]
    ours = dict(taught(model, spans)._model.named_parameters())
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(ours[name], parameter, rtol=1e-5, atol=1e-6)


def test_the_penalty_of_rwalk_shows_in_the_model_that_was_compared() -> None:
    free, held = (taught(learner("rwalk", strength), 3) for strength in (0.0, 1.0))
    pairs = zip(free._model.named_parameters(), held._model.named_parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for (_, a), (_, b) in pairs) > 1e-3


def test_importances_of_ewc_are_the_mean_squared_gradients_of_the_span_s_rows() -> None:
    """Recomputed with autograd from the rows that were learned; all of them are remembered, in parts of 16."""
    model = learner("ewc", 0.0, rows=BATCH * STEPS)
    x_NP, y_N = data(0)
    for at in range(0, len(x_NP), BATCH):
        model.step(batch(x_NP[at : at + BATCH], y_N[at : at + BATCH], at))
    seen = []
    criterion = TensorStrategy._criterion
    driver = strategy(model)

    def watched(logit_BC: Tensor, lesson: Any) -> Tensor:
        seen.append(lesson.rows.batch)
        return criterion(driver, logit_BC, lesson)

    driver._criterion = watched  # type: ignore[method-assign]
    model.consolidate()
    assert sorted(torch.cat([b.row_key_B for b in seen]).tolist()) == list(range(BATCH * STEPS))
    parameters = [p for _, p in model._model.named_parameters()]
    expected = torch.zeros(sum(p.numel() for p in parameters))
    for one in seen:
        logit_BC = model._model(torch.zeros(len(one), 0, 1), one)
        loss = nn.functional.cross_entropy(logit_BC, one.label_BT[:, 0].long())
        found = torch.autograd.grad(loss, parameters)
        expected += torch.cat([g.flatten() for g in found]).square() / len(seen)
    torch.testing.assert_close(flat(driver.plugin.importances[0]), expected)


def trajectory(mended: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """SI's path integral as the plugin has it, and as the sum of gradient times movement."""
    if not mended:
        method = REGULARIZERS["si"]
        assert method is not None
        naive = replace(method, mend=lambda plugin, hook: None)
        monkeypatch.setitem(REGULARIZERS, "si", naive)
    model = learner("si", 0.0)
    parameters = [p for _, p in model._model.named_parameters()]
    x_NP, y_N = data(0)
    expected = torch.zeros(sum(p.numel() for p in parameters))
    for at in range(0, len(x_NP), BATCH):
        one = batch(x_NP[at : at + BATCH], y_N[at : at + BATCH], at)
        before = nn.utils.parameters_to_vector(parameters).detach().clone()
        logit_BC = model._model(torch.zeros(len(one), 0, 1), one)
        loss = nn.functional.cross_entropy(logit_BC, one.label_BT[:, 0].long())
        found = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        model.step(one)
        expected += found * (nn.utils.parameters_to_vector(parameters).detach() - before)
    return flat(strategy(model).plugin.syn_data["trajectory"]), expected


def test_si_adds_up_gradient_times_movement(monkeypatch: pytest.MonkeyPatch) -> None:
    found, expected = trajectory(True, monkeypatch)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    assert expected.sum() < -0.01  # the loss went down


def test_without_our_copies_si_measures_nothing_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The naive variant: what it takes for the state before the update moves with the parameters."""
    found, _ = trajectory(False, monkeypatch)
    assert not found.any()


def test_rows_of_the_table_are_not_held() -> None:
    """The penalty is over the model's parameters, all of them, and nothing else."""
    model = learner("mas", 1.0)
    names = {name.replace("/", ".") for name in dict(strategy(model).model.named_parameters())}
    assert names == {name for name, _ in model._model.named_parameters()}
