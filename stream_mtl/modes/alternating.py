"""One task a step, in rounds: heads move at once, what is shared moves once a round by the mean of its gradients.

Stepping the shared part at every task's step would mix the tasks' second moments in one optimiser; a round's mean is
a joint gradient again. Tasks are drawn by their known labels to the power of one half, so that a rare task is
neither drowned nor worn out (as temperature sampling in multilingual training), or by the balancer's weights.

A step sees only one task's labels of its fresh rows: the others' are learned when they are rehearsed, or not at all.
Legend: T tasks, P dense parameters, R table rows, H embedding width, U touched rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from stream_mtl.balancers.base import GradientBalancer, Seen
from stream_mtl.errors import ConfigError
from stream_mtl.hashing import hash64
from stream_mtl.modes.base import Learning, Moves
from stream_mtl.optim import copy_tensors
from stream_mtl.state import State

_POWER = 0.5  # of the label counts, when tasks are drawn by them


class Alternating:
    """Keeps the gradients of the round so far, and each task's newest loss for a balancer that asks."""

    takes_turns = True

    def __init__(self, learning: Learning) -> None:
        if isinstance(learning.balancer, GradientBalancer):
            raise ConfigError(
                "learner.mode = 'alternating' has one task's gradient a step, and balancer.name chooses a balancer"
                " that compares several: use one that weighs losses, or mode = 'joint'"
            )
        self._learning, self._balancer = learning, learning.balancer
        self._steps = learning.settings.round_steps or learning.tasks
        device = learning.table_RH.device
        self._dense = [
            torch.zeros_like(p.detach() if shared else p.detach()[:0])
            for p, shared in zip(learning.parameters, learning.shared, strict=True)
        ]
        self._seen_P = torch.zeros(len(self._dense), dtype=torch.bool)
        self._sum_RH = torch.zeros_like(learning.table_RH)
        self._touched_R = torch.zeros(len(self._sum_RH), dtype=torch.bool, device=device)
        self._loss_T = torch.ones(learning.tasks)
        self._done = torch.zeros((), dtype=torch.int64)  # steps of this round

    def turn(self, there_T: Tensor, rows_T: Tensor, version: int) -> int | None:
        if not bool(there_T.any()):
            return None
        generator = Generator().manual_seed(hash64(f"turn/{self._learning.seed}/{version}"))
        if self._learning.settings.pick == "balancer":
            chance_T = self._balancer.weights(Seen(self._loss_T, there_T, rows_T, version))
        else:
            chance_T = rows_T.clamp(min=1.0) ** _POWER
        chance_T = (chance_T * there_T).double()
        if not float(chance_T.sum()) > 0:  # a balancer may give nothing to what is there
            chance_T = there_T.double()
        return int(torch.multinomial(chance_T, 1, generator=generator))

    def hold(self, moves: Moves, turn: int | None, loss_T: Tensor) -> Moves:
        if turn is not None:
            self._loss_T[turn] = loss_T[turn].detach().cpu()
        self._gather(moves)
        self._done += 1
        if int(self._done) < self._steps:
            heads = [
                None if shared else gradient
                for gradient, shared in zip(moves.dense, self._learning.shared, strict=True)
            ]
            return replace(
                moves, dense=heads, row_U=moves.row_U[:0], touched_UH=moves.touched_UH[:0]
            )
        return self._end(moves)

    def _gather(self, moves: Moves) -> None:
        for place, gradient in enumerate(moves.dense):
            if gradient is not None and self._learning.shared[place]:
                self._dense[place] += gradient
                self._seen_P[place] = True
        self._sum_RH.index_add_(0, moves.row_U, moves.touched_UH)
        self._touched_R[moves.row_U] = True

    def _end(self, moves: Moves) -> Moves:
        """The round's mean, and heads as this step has them; what was gathered is gone."""
        steps = int(self._done)
        dense: list[Tensor | None] = list(moves.dense)
        for place, shared in enumerate(self._learning.shared):
            if shared:
                dense[place] = self._dense[place] / steps if bool(self._seen_P[place]) else None
                self._dense[place].zero_()
        row_U = self._touched_R.nonzero().squeeze(1)
        mean_UH = self._sum_RH[row_U] / steps
        self._sum_RH[row_U] = 0.0
        self._touched_R.zero_()
        self._seen_P.zero_()
        self._done.zero_()
        return Moves(dense, row_U, mean_UH)

    def state(self) -> State:
        dense = {f"dense/{n}": gradient for n, gradient in enumerate(self._dense)}
        return {
            **dense,
            "seen_P": self._seen_P,
            "sum_RH": self._sum_RH,
            "touched_R": self._touched_R,
            "loss_T": self._loss_T,
            "done": self._done,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "alternating training")
