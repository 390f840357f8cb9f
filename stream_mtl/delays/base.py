"""What a method for late labels promises. Legend: B rows, H helper logits."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Delay(Protocol):
    """Turns provisional labels into a loss whose optimum is the true rate; holds no parameters and no state."""

    @property
    def heads(self) -> int:
        """Helper logits (H) that the task's head has behind its own."""
        ...

    def loss(
        self, told_B: Tensor, yes_B: Tensor, no_B: Tensor, rate_B: Tensor, helper_BH: Tensor
    ) -> Tensor:
        """Loss of shape B of rows told with the codes of `provisional`; 0 for what teaches nothing.

        `yes_B` is -log p and `no_B` -log(1 - p) of the predicted rate p; `rate_B` is p without gradient.
        """
        ...

    def serve(self, rate_B: Tensor) -> Tensor:
        """The true rate, from what was learned."""
        ...
