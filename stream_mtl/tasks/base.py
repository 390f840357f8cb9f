"""What a task kind promises. Legend: B rows, T tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a task finds its logits, and how much a listwise term weighs for it."""

    own: int
    after: int | None = None  # funnel: column of the task whose positive comes first
    listwise: float = 0.0


class TaskKind(Protocol):
    """One loss and the prediction that belongs to it; holds no parameters and no state."""

    @property
    def columns(self) -> tuple[int, ...]:
        """Logits that the loss reads, its own first; their heads move when the task is active."""
        ...

    @property
    def whole_lists(self) -> bool:
        """Whether the loss compares rows of a list, so that the memory must keep lists whole."""
        ...

    @property
    def has_prior(self) -> bool:
        """Whether the head adds the candidates' own order and a position bias."""
        ...

    @property
    def base_rate(self) -> float:
        """Of the head's sigmoid before the first step."""
        ...

    def loss(
        self,
        logit_BT: Tensor,
        label_B: Tensor,
        mask_B: Tensor,
        list_key_B: Tensor,
        drawn_B: Tensor,
    ) -> Tensor:
        """Unreduced loss of shape B, in nats a row; exactly 0 where the label is unknown.

        `logit_BT` already holds the sampling offset; rows of one list stand together. `drawn_B` marks
        rows of lists that nobody was shown: a click and its sampled negatives.
        """
        ...

    def log_probability(self, logit_BT: Tensor) -> Tensor:
        """Log of the predicted probability (shape B), from logits without the sampling offset."""
        ...
