"""ESCM2's corrections of a funnel step: the formulas, and what they are for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from stream_mtl.batch import Batch
from stream_mtl.config import Config
from stream_mtl.joint_loss import join_rows, task_losses
from stream_mtl.learner import Learner
from stream_mtl.task_columns import task_kinds
from stream_mtl.tasks.base import Place, Settings
from stream_mtl.tasks.funnel import Funnel
from stream_mtl.testing_rows import SPEC, rows

Array = np.ndarray[Any, Any]
FLOOR, WEIGHT = 0.05, 0.7


def kind(correction: Literal["none", "ips", "dr"], weight: float = WEIGHT) -> Funnel:
    """Click in column 0, the step and what it imputes behind it."""
    width = 2 if correction == "dr" else 1
    settings = Settings(correction=correction, correction_weight=weight, propensity_floor=FLOOR)
    return Funnel(Place(1, 1, width), settings, [Place(0, 0)])


def drawn(count: int = 400) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits (click, step, imputation), click, purchase, and which purchases are known."""
    random = torch.Generator().manual_seed(3)
    logit_BC = 2 * torch.randn(count, 3, generator=random, dtype=torch.float64)
    click_B = (torch.rand(count, generator=random) < 0.3).double()
    buy_B = click_B * (torch.rand(count, generator=random) < 0.4).double()
    return logit_BC, click_B, buy_B, torch.rand(count, generator=random) < 0.8


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def bce(label: Array, p: Array) -> Array:
    return -(label * np.log(p) + (1 - label) * np.log(1 - p))


def test_inverse_propensities_are_the_self_normalised_mean_over_known_rows() -> None:
    logit_BC, click_B, buy_B, known_B = drawn()
    loss_B = kind("ips").correction(logit_BC, buy_B, known_B, click_B)
    logit, o, r = (x[known_B].numpy() for x in (logit_BC, click_B, buy_B))
    q = np.maximum(sigmoid(logit[:, 0]), FLOOR)
    expected = (o * bce(r, sigmoid(logit[:, 1])) / q).sum() / (o / q).sum()
    assert (loss_B[known_B].mean() / WEIGHT).item() == pytest.approx(expected, rel=1e-6)
    assert (loss_B[~known_B] == 0).all()


def test_doubly_robust_is_imputed_error_plus_weighted_rest_and_teaches_the_imputation() -> None:
    logit_BC, click_B, buy_B, known_B = drawn()
    loss_B = kind("dr").correction(logit_BC, buy_B, known_B, click_B)
    logit, o, r = (x[known_B].numpy() for x in (logit_BC, click_B, buy_B))
    q = np.maximum(sigmoid(logit[:, 0]), FLOOR)
    p, imputed = sigmoid(logit[:, 1]), sigmoid(logit[:, 2])
    error, guess = bce(r, p), bce(imputed, p)
    expected = (guess + o * (error - guess) / q).mean() + (o * (error - guess) ** 2 / q).mean()
    assert (loss_B[known_B].mean() / WEIGHT).item() == pytest.approx(expected, rel=1e-6)
    assert (loss_B[~known_B] == 0).all()


@pytest.mark.parametrize("correction", ["ips", "dr"])
def test_a_correction_teaches_its_own_head_and_never_the_propensity(
    correction: Literal["ips", "dr"],
) -> None:
    logit_BC, click_B, buy_B, known_B = drawn()
    logit_BC.requires_grad_()
    kind(correction).correction(logit_BC, buy_B, known_B, click_B).sum().backward()
    assert logit_BC.grad is not None
    assert logit_BC.grad.isfinite().all()
    moved_C = logit_BC.grad.abs().sum(0) > 0
    assert moved_C.tolist() == [False, True, correction == "dr"]


def test_a_propensity_below_the_floor_counts_as_the_floor() -> None:
    logit_BC, click_B, buy_B, known_B = drawn()
    deep_BC = logit_BC.clone()
    deep_BC[:, 0] = -30.0
    floor_BC = logit_BC.clone()
    floor_BC[:, 0] = float(np.log(FLOOR / (1 - FLOOR)))
    for correction in ("ips", "dr"):
        deep_B, floor_B = (
            kind(correction).correction(x, buy_B, known_B, click_B) for x in (deep_BC, floor_BC)
        )
        torch.testing.assert_close(deep_B, floor_B)


def test_a_batch_without_a_click_adds_nothing_by_inverse_propensities() -> None:
    logit_BC, click_B, _, known_B = drawn()
    nobody_B = torch.zeros_like(click_B)
    assert (kind("ips").correction(logit_BC, nobody_B, known_B, nobody_B) == 0).all()


# --- what it is for -----------------------------------------------------------------------------


def learned_rate(correction: Literal["none", "ips", "dr"], propensity_known: bool = True) -> float:
    """The step's rate over all rows that a head too small for the truth learns, of true .26.

    Half of the rows are of a kind that clicks often (60 %) and then buys often (50 %), half of one that does
    neither (10 %, 2 %). The step's head is one number for all, as a head is that does not tell them apart; the click's head
    knows them (or, not `propensity_known`, is one number too); the imputation knows them.
    """
    random = torch.Generator().manual_seed(1)
    count = 20_000
    eager_B = (torch.arange(count) % 2).bool()
    click_rate_B = torch.where(eager_B, 0.6, 0.1)
    click_B = (torch.rand(count, generator=random) < click_rate_B).float()
    buy_rate_B = torch.where(eager_B, 0.5, 0.02)
    buy_B = click_B * (torch.rand(count, generator=random) < buy_rate_B).float()
    if not propensity_known:
        click_rate_B = torch.full_like(click_rate_B, 0.35)
    known_B, funnel = torch.ones(count, dtype=torch.bool), kind(correction, weight=10.0)
    own, imputed_2 = torch.zeros((), requires_grad=True), torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([own, imputed_2], 0.05)
    for _ in range(200):
        columns = (click_rate_B.logit(), own.expand(count), imputed_2[eager_B.long()])
        logit_BC = torch.stack(columns, 1)
        loss_B = funnel.loss(logit_BC, buy_B, known_B, known_B.long(), ~known_B)
        if funnel.correction is not None:
            loss_B = loss_B + funnel.correction(logit_BC, buy_B, known_B, click_B)
        optimizer.zero_grad()
        loss_B.mean().backward()
        optimizer.step()
    return own.sigmoid().item()


def test_corrections_take_away_the_bias_that_the_funnel_alone_has() -> None:
    """ESMM learns the rate of those who click: .43 where all rows have .26. Corrected it is within .02."""
    truth = 0.26
    plain, weighted, robust = (learned_rate(c) for c in ("none", "ips", "dr"))
    assert plain - truth > 0.12
    assert abs(weighted - truth) < 0.2 * (plain - truth)
    assert abs(robust - truth) < 0.2 * (plain - truth)


def test_doubly_robust_survives_a_wrong_propensity_where_its_imputation_is_right() -> None:
    truth = 0.26
    plain = learned_rate("none", propensity_known=False)
    weighted = learned_rate("ips", propensity_known=False)
    robust = learned_rate("dr", propensity_known=False)
    assert weighted - truth > 0.7 * (plain - truth)
    assert abs(robust - truth) < 0.35 * (plain - truth)


# --- inside the learner -------------------------------------------------------------------------


def corrected(correction: str) -> Config:
    small = {"embedding_dim": 4, "text_dim": 4, "experts": 2, "hidden": 16, "tower": 8}
    purchase = {"kind": "funnel", "after": "click", "correction": correction}
    tasks = {"click": {"kind": "binary"}, "purchase": purchase, "search": {"kind": "listwise"}}
    return Config.model_validate({"model": small, "tasks": tasks})


@pytest.mark.parametrize("correction", ["ips", "dr"])
def test_the_correction_is_part_of_the_task_s_loss_where_only_its_label_is_new(
    correction: str,
) -> None:
    """A purchase label comes when the click's is old news: masked, but told."""
    settings = corrected(correction)
    kinds, batch = task_kinds(SPEC, settings), rows(40)
    mask_BT = torch.zeros_like(batch.mask_BT)
    mask_BT[:, 1] = True
    later = replace(batch, mask_BT=mask_BT)
    logit_BC = torch.randn(40, sum(k.width for k in kinds), generator=torch.Generator())
    funnel = kinds[1]
    assert isinstance(funnel, Funnel)

    def loss(batch: Batch) -> float:
        loss_T = task_losses(join_rows(batch, []), logit_BC, kinds, torch.ones(3))
        return loss_T[1].item()

    label_B, click_B = batch.label_BT[:, 1], batch.label_BT[:, 0]
    added = funnel.correction(logit_BC, label_B, mask_BT[:, 1], click_B).mean().item()
    base_B = funnel.loss(logit_BC, label_B, mask_BT[:, 1], batch.list_key_B, mask_BT[:, 1])
    assert added != 0
    assert loss(later) == pytest.approx(base_B.mean().item() + added, rel=1e-5)


@pytest.mark.parametrize("correction", ["ips", "dr"])
def test_a_learner_with_a_correction_learns_and_goes_on_after_a_restore(correction: str) -> None:
    settings = corrected(correction)
    straight = Learner(SPEC, settings, torch.device("cpu"))
    losses = [straight.step(rows(64, first=64 * (i % 4))).losses["purchase"] for i in range(40)]
    assert losses[-1] < losses[0]
    assert straight.predict(rows(8)).prob_BT.shape == (8, 3)
    assert straight.predict(rows(8)).output_BC.shape == (8, 4 if correction == "dr" else 3)
    saved = {k: v.clone() if isinstance(v, Tensor) else v for k, v in straight.state().items()}
    resumed = Learner(SPEC, settings, torch.device("cpu"))
    resumed.restore(saved)
    assert straight.step(rows(64, first=999)) == resumed.step(rows(64, first=999))


def test_a_correction_of_a_task_without_a_step_before_it_is_refused() -> None:
    with pytest.raises(ValueError, match="only a task of kind 'funnel'"):
        Config.model_validate({"tasks": {"click": {"kind": "binary", "correction": "ips"}}})
