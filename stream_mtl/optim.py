"""Two optimisers in one step: sparse for touched id rows, fused for everything dense.

Legend: R table rows, U touched rows, H embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stream_mtl import config
from stream_mtl.errors import StateError
from stream_mtl.state import State

_EPS = 1e-8  # keeps the first division finite; far below any accumulator that matters


class TableOptimizer:
    """Row-wise Adagrad, one accumulator a row, or SGD, on the rows that a step touched.

    acc += mean(g^2); row -= lr * g / (sqrt(acc) + 1e-8). Untouched rows cost nothing and stay.
    """

    def __init__(self, table_RH: Tensor, settings: config.Optimizer) -> None:
        self._table_RH = table_RH
        self._lr = settings.table_lr
        adagrad = settings.table == "rowwise_adagrad"
        self.accumulator_R = table_RH.new_zeros(table_RH.shape[0] if adagrad else 0)

    def step(self, row_U: Tensor, gradient_UH: Tensor) -> Tensor:
        """Moves distinct rows and returns their new values (U x H). Row 0 (missing) stays zero."""
        gradient_UH = gradient_UH.masked_fill((row_U == 0).unsqueeze(1), 0.0)
        step_UH = gradient_UH * self._lr
        if len(self.accumulator_R):
            sum_U = self.accumulator_R[row_U] + gradient_UH.square().mean(1)
            self.accumulator_R[row_U] = sum_U
            step_UH = step_UH / (sum_U.sqrt() + _EPS).unsqueeze(1)
        moved_UH = self._table_RH[row_U] - step_UH
        self._table_RH[row_U] = moved_UH
        return moved_UH

    def state(self) -> State:
        return {"accumulator_R": self.accumulator_R}

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors({"accumulator_R": self.accumulator_R}, state, "table optimiser")


class DenseOptimizer:
    """AdamW (fused) or SGD. A parameter without a gradient keeps value, moments and step count."""

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], settings: config.Optimizer) -> None:
        self._named = list(named)
        parameters = [p for _, p in self._named]
        self._optimizer: torch.optim.Optimizer
        if settings.dense == "adamw":
            self._optimizer = torch.optim.AdamW(
                parameters, settings.dense_lr, weight_decay=settings.weight_decay, fused=True
            )
            for p in parameters:  # made now, so that the shape of the state never changes
                self._optimizer.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        else:
            self._optimizer = torch.optim.SGD(
                parameters, settings.dense_lr, weight_decay=settings.weight_decay
            )

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """One gradient a parameter, in the order they were given."""
        for (_, parameter), gradient in zip(self._named, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        for _, parameter in self._named:
            parameter.grad = None

    def state(self) -> State:
        return {
            f"{name}/{key}": value
            for name, parameter in self._named
            for key, value in self._optimizer.state.get(parameter, {}).items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "dense optimiser")


def clip_(gradients: Sequence[Tensor], norm: float, limit: float) -> None:
    """Scales gradients of the joint norm `norm` in place, so that it is at most `limit`."""
    if norm > limit:
        torch._foreach_mul_(list(gradients), limit / norm)


def copy_tensors(own: Mapping[str, Any], state: Mapping[str, Any], what: str) -> None:
    """Copies saved tensors into live ones, all or none.

    Raises StateError naming the parts that are missing, unknown or of another shape.
    """
    faults = [f"{name} is missing" for name in own if name not in state]
    faults += [f"{name} is unknown" for name in state if name not in own]
    faults += [
        f"{name} has shape {tuple(getattr(state[name], 'shape', ()))}, expected {tuple(live.shape)}"
        for name, live in own.items()
        if name in state and getattr(state[name], "shape", None) != live.shape
    ]
    if faults:
        raise StateError(
            f"saved state of the {what} does not fit this configuration: {'; '.join(faults)};"
            " use the configuration it was saved with, or start these parts afresh"
        )
    with torch.no_grad():
        for name, live in own.items():
            live.copy_(state[name])
