"""How remembered rows are chosen for a step. Legend: R rows, F sparse fields, K classes of a task's labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Generator, Tensor

from stream_mtl.held import Sample
from stream_mtl.memory.base import Memory


@dataclass(frozen=True, slots=True)
class Ask:
    """What a sampler may ask of the learner about one task; nothing is computed before it is asked."""

    classes: int
    candidates: int
    staleness: Callable[
        [Tensor], Tensor
    ]  # ids (R x F) to steps since they were updated (R), 1 or more
    growth: Callable[
        [Sample], Tensor
    ]  # loss of each row (R) after a virtual step, less that before


class Sampler(Protocol):
    def __call__(self, memory: Memory, rows: int, generator: Generator, ask: Ask) -> Sample | None:
        """About `rows` rows, lists whole; None from an empty memory. Says in `log_chance_K` what it prefers."""
        ...
