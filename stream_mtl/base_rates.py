"""Makes losses of different tasks comparable: divide by what knowing the labels' distribution alone would cost.

A purchase loss of 0.0045 and a click loss of 0.12 may both be as good as guessing the rate; whatever
balances tasks must not see that difference. Entropy of the positive rate, entropy of the class shares, or half the
variance, by the task's kind. Legend: B rows, T tasks, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stream_mtl.optim import copy_tensors
from stream_mtl.state import State
from stream_mtl.tasks.base import TaskKind

_DECAY = 0.99  # a step: remembers about a hundred steps
_PRIOR_ROWS = 20.0  # pseudo rows at the starting rate, so that the first steps do not jump
_EDGE = 1e-4  # the rate is kept this far from 0 and 1: entropy then stays above 1e-3
_LEAST = 1e-3  # of the other spreads: a constant label must not blow its task's loss up


def binary_entropy(rate_T: Tensor) -> Tensor:
    """H(p) in nats, for 0 < p < 1."""
    return -(rate_T * rate_T.log() + (1 - rate_T) * torch.log1p(-rate_T))


@dataclass(frozen=True, slots=True)
class LabelSums:
    """Faded sums over known labels of fresh rows."""

    rate_2T: Tensor  # labels, rows
    other: tuple[
        Tensor, ...
    ]  # of tasks without a rate: class counts (K), or sum and squares of targets (2)


class BaseRates:
    """What the labels of each task look like lately."""

    def __init__(self, kinds: Sequence[TaskKind], device: torch.device) -> None:
        self._start_T = start_rates(kinds).to(device).double()
        self._others = [(t, kind) for t, kind in enumerate(kinds) if kind.spread != "entropy"]
        width = [kind.width if kind.spread == "class_entropy" else 2 for _, kind in self._others]
        self._sums = LabelSums(
            torch.zeros(2, len(kinds), dtype=torch.float64, device=device),
            tuple(torch.zeros(n, dtype=torch.float64, device=device) for n in width),
        )

    @property
    def sums(self) -> LabelSums:
        """As of now."""
        return self._sums

    def updated(self, label_BT: Tensor, mask_BT: Tensor) -> LabelSums:
        """The sums after these rows; `commit` keeps them."""
        new_2T = torch.stack(((label_BT * mask_BT).sum(0), mask_BT.sum(0))).double()
        seen_T = (new_2T[1] > 0).double()  # a task without labels does not fade
        keep_T = 1 - seen_T * (1 - _DECAY)
        other = [
            old * keep_T[task] + _counted(kind, label_BT[:, task], mask_BT[:, task])
            for (task, kind), old in zip(self._others, self._sums.other, strict=True)
        ]
        return LabelSums(self._sums.rate_2T * keep_T + new_2T, tuple(other))

    def spread(self, sums: LabelSums) -> Tensor:
        """Float32, T: the loss a row of a model that knows only the distribution these sums stand for."""
        labels_T, rows_T = sums.rate_2T
        rate_T = (labels_T + self._start_T * _PRIOR_ROWS) / (rows_T + _PRIOR_ROWS)
        spread_T = binary_entropy(rate_T.clamp(_EDGE, 1 - _EDGE))
        for (task, kind), sums_K in zip(self._others, sums.other, strict=True):
            of_classes = kind.spread == "class_entropy"
            value = _class_entropy(sums_K) if of_classes else _half_variance(sums_K, rows_T[task])
            spread_T[task] = value.clamp(min=_LEAST)
        return spread_T.float()

    def commit(self, sums: LabelSums) -> None:
        self._sums.rate_2T.copy_(sums.rate_2T)
        for old, new in zip(self._sums.other, sums.other, strict=True):
            old.copy_(new)

    def state(self) -> State:
        other = {
            f"other/{task}": s for (task, _), s in zip(self._others, self._sums.other, strict=True)
        }
        return {"sums_2T": self._sums.rate_2T, **other}

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "base rates")


def start_rates(kinds: Sequence[TaskKind]) -> Tensor:
    """What the heads predict before the first step: along a funnel, the product."""
    rates = []
    for kind in kinds:
        rate = 1.0
        for task in kind.tasks:
            rate *= kinds[task].base_rate
        rates.append(rate)
    return torch.tensor(rates)


def _counted(kind: TaskKind, label_B: Tensor, mask_B: Tensor) -> Tensor:
    known_R = label_B[mask_B]
    if kind.spread == "variance":
        target_R = kind.target(known_R).double()
        return torch.stack((target_R.sum(), target_R.square().sum()))
    return torch.bincount(known_R.long().clamp(0, kind.width - 1), minlength=kind.width).double()


def _class_entropy(count_K: Tensor) -> Tensor:
    share_K = (count_K + _PRIOR_ROWS / len(count_K)) / (count_K.sum() + _PRIOR_ROWS)
    return -(share_K * share_K.log()).sum()


def _half_variance(sums_2: Tensor, rows: Tensor) -> Tensor:
    """Of targets in their unit; the pseudo rows have variance 1 around 0."""
    mean, square = (
        sums_2[0] / (rows + _PRIOR_ROWS),
        (sums_2[1] + _PRIOR_ROWS) / (rows + _PRIOR_ROWS),
    )
    return (square - mean * mean) / 2
