"""How far a model is trusted beyond its candidates' own order: it must earn its say.

A task with a prior serves

    logit = (1 - trust) * (prior + level) + trust * (what the model says)

`trust` is the value of GRID that ranked best lately. Every step asks before it learns: where among the
rows of its own list and sampling stratum did a positive stand (reciprocal rank) under each value? So a
model that is young, or that the shop has outrun, publishes the order of its candidates, and a good one
is served as it is. `level` is a running mean that keeps both terms on one scale.

Legend: B rows, T tasks, G trust values, P positive rows.
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

GRID = (1.0, 0.75, 0.5, 0.25, 0.0)  # the first wins a tie: a new model is as good as its prior
_DECAY = 0.98  # a step: remembers about fifty
_LEVEL_DECAY = 0.95


class Trust:
    """One value a task; tasks without a prior are always trusted."""

    def __init__(self, kinds: Sequence[TaskKind], device: torch.device) -> None:
        self._tasks = [task for task, kind in enumerate(kinds) if kind.has_prior]
        rates = torch.tensor([kind.base_rate for kind in kinds], dtype=torch.float64)
        self._reward_TG = torch.zeros(len(kinds), len(GRID), dtype=torch.float64, device=device)
        self._level_T = rates.logit().to(device)
        self._grid_G = torch.tensor(GRID, device=device)
        self._read()

    def _read(self) -> None:
        """Plain numbers for serving; follow from the tensors."""
        best = self._reward_TG.argmax(1).tolist()
        self.values = [GRID[g] for g in best]
        self._levels: list[float] = self._level_T.tolist()

    def serve(self, logit_BT: Tensor, prior_B: Tensor) -> Tensor:
        """Logits as served; the given tensor itself where every task is trusted wholly."""
        if all(self.values[task] == 1.0 for task in self._tasks):
            return logit_BT
        logit_BT = logit_BT.clone()
        for task in self._tasks:
            if (trust := self.values[task]) < 1.0:
                candidates_B = prior_B + self._levels[task]
                logit_BT[:, task] = torch.lerp(candidates_B, logit_BT[:, task], trust)
        return logit_BT

    def observe(self, logit_BT: Tensor, batch: Batch) -> None:
        """Fresh rows with labels and the logits that the model gave them before learning from them."""
        index_B, _ = list_index(batch.list_key_B)
        for task in self._tasks:
            known_B = batch.mask_BT[:, task]
            logit_B = logit_BT[:, task]
            if not bool(known_B.any()):
                continue
            level = (logit_B - batch.prior_B)[known_B].mean().double()
            if math.isfinite(float(level)):
                self._level_T[task].lerp_(level, 1 - _LEVEL_DECAY)
            positive_B = (batch.label_BT[:, task] > 0) & known_B
            row_P = positive_B.nonzero().squeeze(1)
            beside_PB = (
                (index_B[row_P].unsqueeze(1) == index_B)
                & (batch.offset_B[row_P].unsqueeze(1) == batch.offset_B)
                & (known_B & ~positive_B)
            )
            row_P = row_P[some_P := beside_PB.any(1)]
            if not len(row_P):
                continue
            beside_PB = beside_PB[some_P]
            score_GB = torch.lerp(batch.prior_B, logit_B, self._grid_G.unsqueeze(1))
            ahead_GPB = score_GB.unsqueeze(1) - score_GB[:, row_P].unsqueeze(2)
            before_GP = ((ahead_GPB.sign() + 1) / 2 * beside_PB).sum(2)  # ties count half
            self._reward_TG[task].mul_(_DECAY).add_((1 / (1 + before_GP)).double().sum(1))
        self._read()

    def state(self) -> State:
        return {"reward_TG": self._reward_TG, "level_T": self._level_T}

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "trust")
        self._read()
