"""What a ranking loss promises. Legend: B rows, W logits of the task's head."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Ranking(Protocol):
    """Compares rows of a list; holds no parameters and no state."""

    @property
    def width(self) -> int:
        """Logits (W) that it reads. The first are the log-odds, whatever the others are for."""
        ...

    @property
    def pointwise(self) -> float:
        """Weight of the cross-entropy that goes beside it in a task that has no other loss."""
        ...

    def loss(self, logit_BW: Tensor, label_B: Tensor, mask_B: Tensor, list_key_B: Tensor) -> Tensor:
        """Loss of shape B, 0 where the label is unknown; such rows do not count in their list either.

        Rows of a list stand together. A label is 0, or what a positive counts: 1, or an inverse propensity.
        """
        ...
