"""How far a model is trusted beyond its candidates' own order: it must earn its say.

A task with a prior ranks lists by

    logit = (1 - trust) * (slope * prior + level) + trust * (what the model says)

`trust` is the value of GRID that ranked best lately in the row's domain. Every step asks before it learns:
by what share of the other rows of its list and sampling stratum was a positive outranked under each value? That share
counts, and not the rank, because the rows are a sample of the candidates, of which the first fifth is published: to be
second or third among sixteen is as good as to be first (judged by reciprocal rank, a model that was better at the very top and worse below
it was trusted too far: hit rate at 20 of four real shops .2265, by this share .2308). So a model that is young, new to a shop, or outrun by it publishes the order of its candidates, and a
good one is served as it is. Slope and level make a probability of the candidates' order: a logistic regression
of the labels on the prior alone, one Newton step for each of the learner's, older rows fading.

Legend: B rows, C logits of all heads, T tasks, G trust values, P positive rows, N domains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from stream_mtl.batch import Batch, list_index
from stream_mtl.optim import copy_tensors
from stream_mtl.state import State
from stream_mtl.tasks.base import TaskKind

GRID = (0.0, 0.25, 0.5, 0.75, 1.0)  # the first wins a tie
DOMAINS = 64  # later ones share the last place
_DOUBT = (
    1.0  # reward that the candidates' order starts with: a list or two must speak for the model
)
_LOOKED_AT = (
    0.2  # share of the candidates that a list shows: to be outranked by so many halves the reward
)
_DECAY = 0.999  # a list with a positive: remembers about a thousand of them
_FADE = 0.99  # of the regression's Hessian, a step
_ROWS = 20.0  # pseudo rows that hold the regression at its start
_FLAT = 0.05  # least slope: the order must not turn round


class Trust:
    """One value a domain and task; tasks without a prior are always trusted, and so are those that may not use it."""

    def __init__(
        self, kinds: Sequence[TaskKind], device: torch.device, judged: Sequence[bool] | None = None
    ) -> None:
        """`judged`: which tasks may use their candidates' order; None: all."""
        judged = [True] * len(kinds) if judged is None else judged
        self._tasks = [task for task, kind in enumerate(kinds) if kind.has_prior and judged[task]]
        self._column = [kind.columns[0] for kind in kinds]
        self._thinned = [-math.log(kind.kept_negatives) for kind in kinds]
        rates = torch.tensor([kind.base_rate for kind in kinds], dtype=torch.float64)
        self._line_T2 = torch.stack((torch.ones_like(rates), rates.logit()), 1).to(device)
        self._hessian_T22 = (_ROWS * torch.eye(2, dtype=torch.float64)).repeat(len(kinds), 1, 1)
        self._hessian_T22 = self._hessian_T22.to(device)
        self._reward_TNG = torch.zeros(
            len(kinds), DOMAINS, len(GRID), dtype=torch.float64, device=device
        )
        self._reward_TNG[..., 0] = _DOUBT
        self._grid_G = torch.tensor(GRID, device=device)
        self._read()

    def _read(self) -> None:
        self._trust_TN = self._grid_G[self._reward_TNG.argmax(2)]  # follows from the rewards

    def of(self, task: int, domain: int) -> float:
        """Between 0, the candidates' order, and 1, the model as it is."""
        return float(self._trust_TN[task, min(domain, DOMAINS - 1)])

    def serve(self, logit_BC: Tensor, batch: Batch) -> Tensor:
        """Logits as served, from those of the model."""
        logit_BC = logit_BC.clone()
        place_B = batch.domain_B.clamp(max=DOMAINS - 1)
        for task in self._tasks:
            candidates_B = self._candidates(task, batch.prior_B)
            trust_B = self._trust_TN[task][place_B]
            own = self._column[task]
            logit_BC[:, own] = torch.lerp(candidates_B, logit_BC[:, own], trust_B)
        return logit_BC

    def observe(self, logit_BC: Tensor, batch: Batch) -> None:
        """Fresh rows with labels and the logits that the model gave them before learning from them."""
        if not self._tasks:
            return
        index_B, _ = list_index(batch.list_key_B)
        for task in self._tasks:
            known_B = batch.mask_BT[:, task]
            if bool(known_B.any()):
                self._judge(task, logit_BC[:, self._column[task]], batch, index_B)
                self._regress(task, batch, known_B)
        self._read()

    def _candidates(self, task: int, prior_B: Tensor) -> Tensor:
        slope, level = self._line_T2[task].float()
        candidates_B: Tensor = slope.clamp(min=_FLAT) * prior_B + level
        return candidates_B

    def _regress(self, task: int, batch: Batch, known_B: Tensor) -> None:
        prior_K = batch.prior_B[known_B].double()
        input_K2 = torch.stack((prior_K, torch.ones_like(prior_K)), 1)
        offset_K = batch.offset_B[known_B] + self._thinned[task]
        prob_K = (input_K2 @ self._line_T2[task] + offset_K).sigmoid()
        curvature_K1 = (prob_K * (1 - prob_K)).unsqueeze(1)
        self._hessian_T22[task].mul_(_FADE).add_(input_K2.T @ (curvature_K1 * input_K2))
        self._hessian_T22[task].diagonal().add_(1e-3)
        gradient_2 = input_K2.T @ (prob_K - batch.label_BT[known_B, task])
        move_2 = torch.linalg.solve(self._hessian_T22[task], gradient_2)
        self._line_T2[task] -= move_2.clamp(-1, 1)

    def _judge(self, task: int, logit_B: Tensor, batch: Batch, index_B: Tensor) -> None:
        """Reward every trust value by how far up it would have put the positives."""
        known_B = batch.mask_BT[:, task]
        positive_B = (batch.label_BT[:, task] > 0) & known_B
        row_P = positive_B.nonzero().squeeze(1)
        beside_PB = (
            (index_B[row_P].unsqueeze(1) == index_B)
            & (batch.offset_B[row_P].unsqueeze(1) == batch.offset_B)
            & (known_B & ~positive_B)
        )
        some_P = beside_PB.any(1)
        row_P, beside_PB = row_P[some_P], beside_PB[some_P]
        candidates_B = self._candidates(task, batch.prior_B)
        score_GB = torch.lerp(candidates_B, logit_B, self._grid_G.unsqueeze(1))
        ahead_GPB = score_GB.unsqueeze(1) - score_GB[:, row_P].unsqueeze(2)
        before_GP = ((ahead_GPB.sign() + 1) / 2 * beside_PB).sum(2)  # ties count half
        place_P = batch.domain_B[row_P].clamp(max=DOMAINS - 1)
        judged_N = torch.bincount(place_P, minlength=DOMAINS).double()
        reward_NG = self._reward_TNG[task]
        reward_NG.mul_((_DECAY**judged_N).unsqueeze(1))
        before_GP = before_GP / (_LOOKED_AT * beside_PB.sum(1))
        reward_NG.index_add_(0, place_P, (1 / (1 + before_GP)).double().T)

    def state(self) -> State:
        return {
            "reward_TNG": self._reward_TNG,
            "line_T2": self._line_T2,
            "hessian_T22": self._hessian_T22,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "trust")
        self._read()
