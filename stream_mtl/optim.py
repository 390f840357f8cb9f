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
from stream_mtl.state import State, misfits

_EPS = 1e-8  # keeps the first division finite; far below any accumulator that matters
_BETAS = (0.9, 0.999)  # of AdamW


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
        if not len(row_U):
            return gradient_UH
        gradient_UH = gradient_UH.masked_fill((row_U == 0).unsqueeze(1), 0.0)
        step_UH = gradient_UH * self._lr
        if len(self.accumulator_R):
            sum_U = self.accumulator_R.index_select(0, row_U) + gradient_UH.square().mean(1)
            self.accumulator_R.index_copy_(0, row_U, sum_U)
            step_UH = step_UH / (sum_U.sqrt() + _EPS).unsqueeze(1)
        moved_UH = self._table_RH.index_select(0, row_U) - step_UH
        self._table_RH.index_copy_(0, row_U, moved_UH)
        return moved_UH

    def forget(self, row_U: Tensor) -> None:
        """Rows that begin anew."""
        if len(self.accumulator_R):
            self.accumulator_R[row_U] = 0.0

    def state(self) -> State:
        return {"accumulator_R": self.accumulator_R}

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors({"accumulator_R": self.accumulator_R}, state, "table optimiser")


class DenseOptimizer:
    """AdamW or SGD. A parameter without a gradient keeps value, moments and step count.

    Calls torch's fused kernel itself: `torch.optim` gives the same numbers, but costs half a millisecond
    of Python a step and loads the compiler, seconds of it, at the first one.
    """

    def __init__(
        self, named: Sequence[tuple[str, nn.Parameter]], settings: config.Optimizer
    ) -> None:
        self._named = list(named)
        self._settings = settings
        self._moments: list[tuple[Tensor, Tensor, Tensor]] = []  # step, exp_avg, exp_avg_sq
        if settings.dense == "adamw":
            # one tensor for all counts: to count up is one addition, not one a parameter
            self._steps_P = torch.zeros(len(self._named), device=self._named[0][1].device)
            self._moments = [
                (step, torch.zeros_like(p), torch.zeros_like(p))
                for (_, p), step in zip(self._named, self._steps_P, strict=True)
            ]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None], rate: float) -> None:
        """One gradient a parameter, in the order they were given; `rate` as `rate(steps)` has it, or another."""
        moving = [i for i, gradient in enumerate(gradients) if gradient is not None]
        parameters = [self._named[i][1].detach() for i in moving]
        given = [gradient for gradient in gradients if gradient is not None]
        if self._settings.dense == "sgd":
            self._sgd(parameters, given, rate)
        elif moving:
            self._adamw(parameters, given, [self._moments[i] for i in moving], rate)

    def forget(self, parameters: Sequence[nn.Parameter]) -> None:
        """Start the moments of these parameters afresh: what they belong to is new."""
        ids = {id(p) for p in parameters}
        for (_, parameter), moments in zip(self._named, self._moments, strict=False):
            if id(parameter) in ids:
                torch._foreach_zero_(list(moments))

    def rate(self, steps: int) -> float:
        """From `first_lr` down to `dense_lr`, the difference halved every `lr_half_life` steps.

        A young model has far to go; one that follows a shop for years must not jump at every batch.
        """
        settings = self._settings
        ahead = settings.first_lr - settings.dense_lr
        fade: float = 0.5 ** (steps / settings.lr_half_life)
        return settings.dense_lr + ahead * fade

    def _adamw(
        self,
        parameters: list[Tensor],
        gradients: list[Tensor],
        moments: list[tuple[Tensor, Tensor, Tensor]],
        rate: float,
    ) -> None:
        steps, means, squares = (list(part) for part in zip(*moments, strict=True))
        if len(steps) == len(self._moments):
            self._steps_P.add_(1.0)
        else:
            torch._foreach_add_(steps, 1.0)
        torch._fused_adamw_(
            parameters,
            gradients,
            means,
            squares,
            [],
            steps,
            lr=rate,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            weight_decay=self._settings.weight_decay,
            eps=_EPS,
            amsgrad=False,
            maximize=False,
        )

    def _sgd(self, parameters: list[Tensor], gradients: list[Tensor], rate: float) -> None:
        if self._settings.weight_decay:
            torch._foreach_mul_(parameters, 1 - rate * self._settings.weight_decay)
        torch._foreach_add_(parameters, gradients, alpha=-rate)

    def state(self) -> State:
        return {
            f"{name}/{key}": value
            for (name, _), moments in zip(self._named, self._moments, strict=False)
            for key, value in zip(("step", "exp_avg", "exp_avg_sq"), moments, strict=True)
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "dense optimiser")


class Parameters:
    """A model's parameters as state."""

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]]) -> None:
        self._named = {name: parameter.detach() for name, parameter in named}

    def state(self) -> State:
        return dict(self._named)

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self._named, state, "model")


def joint_norm(gradients: Sequence[Tensor]) -> Tensor:
    """As torch's `get_total_norm` has it to the bit, without a tenth of a millisecond of looking at devices."""
    norms = torch._foreach_norm(list(gradients))  # noqa: SLF001 - what `get_total_norm` calls
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def clip_(gradients: Sequence[Tensor], norm: float, limit: float) -> None:
    """Scales gradients of the joint norm `norm` in place, so that it is at most `limit`."""
    if norm > limit:
        torch._foreach_mul_(list(gradients), limit / norm)


def copy_tensors(own: Mapping[str, Any], state: Mapping[str, Any], what: str) -> None:
    """Copies saved tensors into live ones, all or none.

    Raises StateError naming the parts that are missing, unknown or of another shape.
    """
    faults = misfits(own, state)
    if faults:
        raise StateError(
            f"saved state of the {what} does not fit this configuration: {'; '.join(faults)};"
            " use the configuration it was saved with, or start these parts afresh"
        )
    with torch.no_grad():
        for name, live in own.items():
            live.copy_(state[name])
