"""Every model keeps what `models/base.py` promises."""

from __future__ import annotations

import pkgutil

import pytest
import torch
from torch import Tensor

from stream_mtl import config, models
from stream_mtl.layers import Parts
from stream_mtl.models import MODELS
from stream_mtl.models.base import Model
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Place, Settings
from stream_mtl.testing_rows import SPEC, rows

NAMES = list(MODELS)
SETTINGS = config.Model(embedding_dim=4, text_dim=5, experts=3, hidden=16, tower=8)


def build(name: str, seed: int = 0) -> Model:
    kinds = [
        TASKS["binary"](Place(0, 0), Settings()),
        TASKS["multiclass"](Place(1, 1, 4), Settings(classes=4)),
        TASKS["funnel"](Place(2, 5), Settings(), [Place(0, 0)]),
    ]
    return MODELS[name](Parts(SPEC, SETTINGS, kinds, torch.Generator().manual_seed(seed)))


def embedding(count: int) -> Tensor:
    random = torch.Generator().manual_seed(9)
    return torch.randn(count, len(SPEC.sparse_fields), SETTINGS.embedding_dim, generator=random)


def stirred(model: Model) -> Model:
    """Away from the start, where towers are zero and hide faults."""
    random = torch.Generator().manual_seed(4)
    for _, parameter in model.named_parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=random), alpha=0.2)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_logits_have_a_row_for_each_row_and_the_columns_of_every_head(name: str) -> None:
    assert build(name)(embedding(10), rows(10)).shape == (10, 6)
    assert build(name)(embedding(0), rows(0)).shape == (0, 6)


@pytest.mark.parametrize("name", NAMES)
def test_shared_and_head_parameters_partition_all(name: str) -> None:
    model = build(name)
    heads = [p for task in range(3) for p in model.head_parameters(task)]
    parts = [id(p) for p in (*model.shared_parameters(), *heads)]
    assert len(parts) == len(set(parts))
    assert set(parts) == {id(p) for _, p in model.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shared_comes_from_shared_parameters_and_is_read_by_heads_alone(name: str) -> None:
    """A balancer that replaces the gradient at this border reaches all of the trunk and nothing of the heads."""
    model, batch = stirred(build(name)), rows(8)
    shared = model.shared(embedding(8), batch)
    shared_ids = {id(p) for p in model.shared_parameters()}
    cut = [part.detach().requires_grad_() for part in shared]
    model.read(cut, batch).sum().backward()
    for _, parameter in model.named_parameters():
        assert (parameter.grad is None) == (id(parameter) in shared_ids)
        parameter.grad = None
    torch.stack([part.sum() for part in shared]).sum().backward()
    for _, parameter in model.named_parameters():
        assert (parameter.grad is None) == (id(parameter) not in shared_ids)
    torch.testing.assert_close(model.read(shared, batch), model(embedding(8), batch))


@pytest.mark.parametrize("name", NAMES)
def test_one_row_alone_equals_the_row_in_its_batch(name: str) -> None:
    model, batch, looked_up = stirred(build(name)), rows(12), embedding(12)
    whole_BC = model(looked_up, batch)
    alone_BC = torch.cat([model(looked_up[i : i + 1], batch.rows(i, i + 1)) for i in range(12)])
    torch.testing.assert_close(alone_BC, whole_BC, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_young_model_says_the_base_rate_of_every_row(name: str) -> None:
    """Before the first step, whatever the features, the candidates' prior and the place are."""
    logit_BC = build(name)(embedding(200), rows(200))
    torch.testing.assert_close(logit_BC, logit_BC[:1].expand(200, -1))
    assert logit_BC[:, 5].sigmoid().allclose(torch.tensor(0.1))


@pytest.mark.parametrize("name", NAMES)
def test_a_head_receives_gradient_from_its_own_columns_only(name: str) -> None:
    model = stirred(build(name))
    model(embedding(8), rows(8))[:, 1:5].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.head_parameters(1))
    for other in (0, 2):
        assert all(p.grad is None or not p.grad.any() for p in model.head_parameters(other))


@pytest.mark.parametrize("name", NAMES)
def test_same_generator_gives_the_same_weights_whatever_was_drawn_globally(name: str) -> None:
    first = build(name)
    torch.rand(17)
    second = build(name)
    for (_, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(models.__path__)} - {"base"}
    assert files == {new.__module__.rsplit(".", 1)[1] for new in MODELS.values()}  # type: ignore[attr-defined]
