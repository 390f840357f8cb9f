"""What a training mode promises. Legend: T tasks, U touched table rows, H embedding width, P dense parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from stream_mtl import config
from stream_mtl.balancers.base import Balancer, GradientBalancer
from stream_mtl.state import State


@dataclass(frozen=True, slots=True)
class Learning:
    """What a mode may look at."""

    settings: config.Learner
    seed: int
    tasks: int
    parameters: Sequence[nn.Parameter]
    shared: Sequence[bool]  # of every parameter, whether all tasks move it
    table_RH: Tensor
    balancer: Balancer | GradientBalancer


@dataclass(frozen=True, slots=True)
class Moves:
    """What a step moves: gradients of the dense parameters (P, None: it stays) and of distinct table rows."""

    dense: list[Tensor | None]
    row_U: Tensor
    touched_UH: Tensor


class Mode(Protocol):
    takes_turns: bool  # False: `turn` says None whatever it is asked

    def turn(self, there_T: Tensor, rows_T: Tensor, version: int) -> int | None:
        """The one task that the coming step learns; None: all of them together. Changes nothing.

        `there_T`: tasks that have something to learn from, fresh or remembered; `rows_T`: known labels lately;
        `version`: steps done.
        """
        ...

    def hold(self, moves: Moves, turn: int | None, loss_T: Tensor) -> Moves:
        """What moves now, from the gradients of a step that is being taken and its losses."""
        ...

    def state(self) -> State: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


class NewMode(Protocol):
    def __call__(self, learning: Learning) -> Mode:
        """Raises ConfigError for settings that do not go together."""
        ...
