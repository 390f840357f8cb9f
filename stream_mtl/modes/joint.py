"""All tasks in one step: the default."""

from __future__ import annotations

from torch import Tensor

from stream_mtl.modes.base import Learning, Moves
from stream_mtl.state import Stateless


class Joint(Stateless):
    takes_turns = False

    def __init__(self, learning: Learning) -> None:
        del learning

    def turn(self, there_T: Tensor, rows_T: Tensor, version: int) -> int | None:
        return None

    def hold(self, moves: Moves, turn: int | None, loss_T: Tensor) -> Moves:
        return moves
