"""What a rehearsal method decides: how many remembered rows of a task, and what they teach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stream_mtl import config


@dataclass(frozen=True, slots=True)
class Draw:
    """One independent draw from a task's memory and the weights of its two possible terms."""

    rows: int
    label_weight: float  # of the task's own loss on the remembered labels
    logit_weight: float  # of the squared distance to the remembered logits


class Rehearsal(Protocol):
    def __call__(self, rows: int, settings: config.Rehearsal) -> tuple[Draw, ...]:
        """Draws for one task that add up to `rows`, so that methods cost equal gradient rows."""
        ...
