"""Every model keeps what `models/base.py` promises."""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from stream_mtl import config, models
from stream_mtl.layers import Parts, droppers, dropping
from stream_mtl.lookup import lookup
from stream_mtl.models import MODELS
from stream_mtl.models.base import Model
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Place, Settings
from stream_mtl.testing_rows import SPEC, rows
from stream_mtl.wiring import wired

SETTINGS = config.Model(
    embedding_dim=4, text_dim=5, experts=3, private_experts=2, hidden=16, tower=8
)
OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "fm": {"interactions": "fm"},
    "dcn": {"interactions": "dcn"},
    "fm+dcn+gates": {"interactions": "fm+dcn", "domain_gates": True},
    "gates": {"domain_gates": True},
    "dropout": {"dropout": 0.4},
    "private": {"private_fields": ("item", "user")},
}
CASES = [
    pytest.param(SETTINGS.model_copy(update={"name": name, **option}), id=f"{name}-{label}")
    for name in MODELS
    for label, option in OPTIONS.items()
    if not (name == "single" and label == "private")  # refused: its own test says so
]


def build(settings: config.Model, seed: int = 0) -> Model:
    kinds = [
        TASKS["binary"](Place(0, 0), Settings()),
        TASKS["multiclass"](Place(1, 1, 4), Settings(classes=4)),
        TASKS["funnel"](Place(2, 5), Settings(), [Place(0, 0)]),
    ]
    parts = Parts(SPEC, settings, kinds, torch.Generator().manual_seed(seed))
    return wired(MODELS[settings.name](parts), parts)


def embedding(count: int, settings: config.Model = SETTINGS) -> Tensor:
    random = torch.Generator().manual_seed(9)
    ids = lookup(SPEC, settings)(torch.ones(1, len(SPEC.sparse_fields), dtype=torch.int64))
    return torch.randn(count, ids.shape[1], settings.embedding_dim, generator=random)


def stirred(model: Model) -> Model:
    """Away from the start, where towers are zero and hide faults."""
    random = torch.Generator().manual_seed(4)
    for _, parameter in model.named_parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
    return model


@pytest.mark.parametrize("settings", CASES)
def test_logits_have_a_row_for_each_row_and_the_columns_of_every_head(
    settings: config.Model,
) -> None:
    assert build(settings)(embedding(10, settings), rows(10)).shape == (10, 6)
    assert build(settings)(embedding(0, settings), rows(0)).shape == (0, 6)


@pytest.mark.parametrize("settings", CASES)
def test_shared_and_head_parameters_partition_all(settings: config.Model) -> None:
    model = build(settings)
    heads = [p for task in range(3) for p in model.head_parameters(task)]
    parts = [id(p) for p in (*model.shared_parameters(), *heads)]
    assert len(parts) == len(set(parts))
    assert set(parts) == {id(p) for _, p in model.named_parameters()}


@pytest.mark.parametrize("settings", CASES)
def test_what_is_shared_comes_from_shared_parameters_and_is_read_by_heads_alone(
    settings: config.Model,
) -> None:
    """A balancer that replaces the gradient at this border reaches all of the trunk and nothing of the heads."""
    model, batch = stirred(build(settings)), rows(8)
    shared = model.shared(embedding(8, settings).requires_grad_(), batch)
    shared_ids = {id(p) for p in model.shared_parameters()}
    cut = [part.detach().requires_grad_() for part in shared]
    model.read(cut, batch).sum().backward()
    for _, parameter in model.named_parameters():
        assert (parameter.grad is None) == (id(parameter) in shared_ids)
        parameter.grad = None
    torch.stack([part.sum() for part in shared]).sum().backward()
    for _, parameter in model.named_parameters():
        assert (parameter.grad is None) == (id(parameter) not in shared_ids)
    torch.testing.assert_close(model.read(shared, batch), model(embedding(8, settings), batch))


@pytest.mark.parametrize("settings", CASES)
def test_one_row_alone_equals_the_row_in_its_batch(settings: config.Model) -> None:
    model, batch, looked_up = stirred(build(settings)), rows(12), embedding(12, settings)
    whole_BC = model(looked_up, batch)
    alone_BC = torch.cat([model(looked_up[i : i + 1], batch.rows(i, i + 1)) for i in range(12)])
    torch.testing.assert_close(alone_BC, whole_BC, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", CASES)
def test_young_model_says_the_base_rate_of_every_row(settings: config.Model) -> None:
    """Before the first step, whatever the features, the candidates' prior and the place are."""
    logit_BC = build(settings)(embedding(200, settings), rows(200))
    torch.testing.assert_close(logit_BC, logit_BC[:1].expand(200, -1))
    assert logit_BC[:, 5].sigmoid().allclose(torch.tensor(0.1))


@pytest.mark.parametrize("settings", CASES)
def test_a_head_receives_gradient_from_its_own_columns_only(settings: config.Model) -> None:
    model = stirred(build(settings))
    model(embedding(8, settings), rows(8))[:, 1:5].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.head_parameters(1))
    for other in (0, 2):
        assert all(p.grad is None or not p.grad.any() for p in model.head_parameters(other))


@pytest.mark.parametrize("settings", CASES)
def test_same_generator_gives_the_same_weights_whatever_was_drawn_globally(
    settings: config.Model,
) -> None:
    first = build(settings)
    torch.rand(17)
    second = build(settings)
    for (_, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("settings", CASES)
def test_gradients_of_every_parameter_and_embedding_are_finite(settings: config.Model) -> None:
    """At the start, where many are zero, and away from it; with the largest dense features that are let in."""
    batch = rows(16)
    wild = replace(batch, dense_BD=batch.dense_BD * 1e6)
    for model in (build(settings), stirred(build(settings))):
        looked_up = embedding(16, settings).requires_grad_()
        with dropping(droppers(model), 3):
            model(looked_up, wild).square().mean().backward()
        gradients = [looked_up.grad, *(p.grad for _, p in model.named_parameters())]
        assert all(g is not None and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("settings", CASES)
def test_gates_are_told_as_shares_of_named_experts(settings: config.Model) -> None:
    model, batch = stirred(build(settings)), rows(6)
    mixtures = model.mixtures(embedding(6, settings), batch)
    expected = {"mmoe": 3, "cgc": 3, "ple": 6}  # a gate a task, in each level
    assert len(mixtures) == expected.get(settings.name, 0)
    for mixture in mixtures:
        torch.testing.assert_close(mixture.gate_BE.sum(1), torch.ones(6))
        assert mixture.expert_BEH.shape[:2] == mixture.gate_BE.shape
        assert len(set(mixture.experts)) == mixture.gate_BE.shape[1]


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(models.__path__)} - {"base"}
    assert files == {new.__module__.rsplit(".", 1)[1] for new in MODELS.values()}  # type: ignore[attr-defined]
