"""Models against the formulas of their papers, written out in numpy row by row and expert by expert."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stream_mtl import config
from stream_mtl.batch import Batch
from stream_mtl.layers import Parts
from stream_mtl.models import MODELS
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Place, Settings
from stream_mtl.testing_rows import SPEC, rows

ROWS, HIDDEN, EXPERTS, OWN = 5, 6, 3, 2
Array = np.ndarray[Any, Any]
Weights = Mapping[str, Array]


def built(name: str, **settings: Any) -> tuple[Any, Weights, Array, list[Array]]:
    """A model with random weights everywhere, its weights, its logits, and the inputs that it made of the rows."""
    kinds = [
        TASKS["binary"](Place(0, 0), Settings()),
        TASKS["multiclass"](Place(1, 1, 3), Settings(classes=3)),
        TASKS["funnel"](Place(2, 4), Settings(), [Place(0, 0)]),
    ]
    small = config.Model(
        name=name,
        embedding_dim=4,
        text_dim=3,
        experts=EXPERTS,
        private_experts=OWN,
        hidden=HIDDEN,
        tower=4,
        **settings,
    )
    random = torch.Generator().manual_seed(0)
    model: Any = MODELS[name](Parts(SPEC, small, kinds, random))
    for parameter in model.parameters():
        parameter.data = 0.7 * torch.randn(parameter.shape, generator=random)
    model.double()
    looked_up, batch = asked()
    if name == "single":  # every task has three embeddings of its own
        looked_up = torch.cat([looked_up, looked_up.flip(0), -looked_up], 1)
    inputs = heard(model)
    logit_BC = model(looked_up, batch).detach().numpy()
    weights = {name: p.detach().numpy() for name, p in model.named_parameters()}
    return model, weights, logit_BC, inputs


def heard(model: Any) -> list[Array]:
    """Fills with what every input layer makes, in double precision (text projections stay single)."""
    layers = model.inputs if isinstance(model.inputs, torch.nn.ModuleList) else [model.inputs]
    kept: list[Array] = []

    def hear(module: Any, given: Any, made: Tensor) -> Tensor:
        kept.append(made.double().detach().numpy())
        return made.double()

    for layer in layers:
        for text in (layer.title, layer.query):
            text.float()
        layer.register_forward_hook(hear)
    return kept


def asked() -> tuple[Tensor, Batch]:
    """Embeddings and rows, in double precision."""
    batch = rows(ROWS)
    double = {name: getattr(batch, name).double() for name in ("dense_BD", "prior_B")}
    random = torch.Generator().manual_seed(5)
    return torch.randn(ROWS, 3, 4, generator=random).double(), replace(batch, **double)


def affine(weights: Weights, name: str, x: Array) -> Array:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    shares: Array = np.exp(x - x.max())
    return shares / shares.sum()


def norm(x: Array) -> Array:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def expert(weights: Weights, name: str, x: Array, number: int) -> Array:
    """Linear, layer norm, SiLU of one expert of a group."""
    own = slice(number * HIDDEN, (number + 1) * HIDDEN)
    return silu(norm((weights[f"{name}.weight"] @ x + weights[f"{name}.bias"])[own]))


def head(weights: Weights, task: int, x: Array, row: int) -> Array:
    logit = affine(weights, f"heads.{task}.out", silu(affine(weights, f"heads.{task}.hidden", x)))
    if task:
        return logit
    batch = rows(ROWS)
    shown = weights["heads.0.prior_scale"] * batch.prior_B[row].item()
    return logit + shown + 10 * weights["heads.0.position_bias"][int(batch.position_B[row])]


def mixed(shares: Array, experts: list[Array]) -> Array:
    total = np.zeros(HIDDEN)
    for share, output in zip(shares, experts, strict=True):
        total += share * output
    return total


def mmoe(w: Weights, x: Array, task: int) -> Array:
    experts = [expert(w, "expert", x, e) for e in range(EXPERTS)]
    return mixed(softmax(affine(w, f"gates.{task}", x)), experts)


def cgc(w: Weights, x: Array, task: int) -> Array:
    experts = [expert(w, "expert.linear", x, e) for e in range(EXPERTS)]
    experts += [expert(w, f"private.{task}.linear", x, e) for e in range(OWN)]
    return mixed(softmax(affine(w, f"gates.{task}", x)), experts)


def ple(w: Weights, x: Array, task: int) -> Array:
    streams, shared = [x] * 3, x
    for level in ("levels.0", "levels.1"):
        common = [expert(w, f"{level}.shared.linear", shared, e) for e in range(EXPERTS)]
        own = [
            [expert(w, f"{level}.private.{t}.linear", streams[t], e) for e in range(OWN)]
            for t in range(3)
        ]
        gates = [softmax(affine(w, f"{level}.gates.{t}", streams[t])) for t in range(3)]
        if level == "levels.0":
            everything = softmax(affine(w, f"{level}.shared_gate", shared))
            shared = mixed(everything, common + own[0] + own[1] + own[2])
        streams = [mixed(gates[t], common + own[t]) for t in range(3)]
    return streams[task]


def aitm(w: Weights, x: Array, task: int) -> Array:
    own = expert(w, f"towers.{task}.linear", x, 0)
    if task != 2:  # the funnel's step comes after task 0
        return own
    passed = silu(affine(w, "transfers.2.passed", aitm(w, x, 0)))
    logits, values = [], []
    for u in (passed, own):
        h1, h2, h3 = affine(w, "transfers.2.projections", u).reshape(3, HIDDEN)
        logits.append(h1 @ h2 / np.sqrt(HIDDEN))
        values.append(h3)
    return mixed(softmax(np.array(logits)), values)


def single(w: Weights, x: Array, task: int) -> Array:
    return expert(w, f"bottoms.{task}.linear", x, 0)


NAIVE: dict[str, Callable[[Weights, Array, int], Array]] = {
    "aitm": aitm,
    "cgc": cgc,
    "mmoe": mmoe,
    "ple": ple,
    "single": single,
}


@pytest.mark.parametrize("name", NAIVE)
def test_logits_are_those_of_the_formula(name: str) -> None:
    _, weights, logit_BC, inputs = built(name)
    for row in range(ROWS):
        logits = []
        for task in range(3):
            x = inputs[task if name == "single" else 0][row]
            logits.append(head(weights, task, NAIVE[name](weights, x, task), row))
        np.testing.assert_allclose(logit_BC[row], np.concatenate(logits), rtol=1e-6, atol=1e-6)


def test_one_level_of_ple_is_cgc() -> None:
    levels = built("ple", levels=1)[0]
    flat = built("cgc")[0]
    state = {
        name.replace("levels.0.shared.", "expert.").replace("levels.0.", ""): value
        for name, value in levels.state_dict().items()
    }
    flat.load_state_dict(state)
    looked_up, batch = asked()
    torch.testing.assert_close(flat(looked_up, batch), levels(looked_up, batch))


@pytest.mark.parametrize("name", ["cgc", "ple"])
def test_a_private_expert_of_the_last_level_serves_its_task_alone(name: str) -> None:
    """What another task's private expert says changes nothing; a shared one's changes all."""
    model = built(name)[0]
    looked_up, batch = asked()
    before_BC = model(looked_up, batch)
    last = model if name == "cgc" else model.levels[-1]
    last.private[1].linear.weight.data.mul_(-2)
    moved_C = (model(looked_up, batch) != before_BC).any(0)
    assert moved_C.tolist() == [False, True, True, True, False]
