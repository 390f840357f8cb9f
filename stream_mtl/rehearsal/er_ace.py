"""ER-ACE: fresh rows compete only among the classes of their own batch (Caccia et al., ICLR 2022, eq. 4).

A batch without a class says "not this one" of it in every row, and pushes down what was learned of it before. So the
fresh rows' softmax leaves out classes that were seen earlier and are absent now; those that were never seen stay in,
and remembered rows compete among all. Multi-class heads only: of a yes or no, a batch without a yes is evidence. Best
where classes come in blocks; where every batch has nearly all of them it is ER.

Legend: C logits of all heads, W classes of one head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stream_mtl.batch import Batch
from stream_mtl.errors import ConfigError
from stream_mtl.optim import copy_tensors
from stream_mtl.rehearsal.base import Context
from stream_mtl.state import State

_HIDDEN = -1e4  # exp of it is 0; unlike -inf it makes no NaN


class PresentClasses:
    def __init__(self, context: Context) -> None:
        """Raises ConfigError with label smoothing, which would spread labels over classes that are hidden."""
        smoothed = [name for name, task in context.tasks if task.smoothing > 0]
        if smoothed:
            raise ConfigError(
                "rehearsal.loss = 'er_ace' hides classes over which label smoothing would spread labels;"
                f" set smoothing = 0 for {', '.join(smoothed)}, or use 'er'"
            )
        wide = [
            (task, kind)
            for task, kind in enumerate(context.kinds)
            if kind.spread == "class_entropy"
        ]
        self._places = [(task, kind.columns[0], kind.width) for task, kind in wide]
        self._width = sum(kind.width for kind in context.kinds)
        device = context.table_RH.device
        self._seen = [torch.zeros(n, dtype=torch.bool, device=device) for _, _, n in self._places]

    def fresh_shift(self, fresh: Batch) -> Tensor | None:
        if not self._places:
            return None
        shift_C = fresh.weight_B.new_zeros(self._width)
        for (task, start, width), seen_W in zip(self._places, self._seen, strict=True):
            hidden_W = seen_W & ~_present(fresh, task, width)
            shift_C[start : start + width].masked_fill_(hidden_W, _HIDDEN)
        return shift_C

    def losses(self, fresh: Batch, logit_BC: Tensor) -> Tensor | None:
        return None

    def learned(self, fresh: Batch, version: int) -> None:
        for (task, _, width), seen_W in zip(self._places, self._seen, strict=True):
            seen_W |= _present(fresh, task, width)

    def consolidate(self, version: int) -> None:
        """Knows no spans."""

    def state(self) -> State:
        return {
            f"seen/{task}": seen_W
            for (task, _, _), seen_W in zip(self._places, self._seen, strict=True)
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "rehearsal")


def _present(fresh: Batch, task: int, width: int) -> Tensor:
    label_R = fresh.label_BT[fresh.mask_BT[:, task], task].long().clamp(0, width - 1)
    return torch.bincount(label_R, minlength=width) > 0
