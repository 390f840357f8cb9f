"""No rehearsal: the control that must forget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from stream_mtl import config
from stream_mtl.batch import Batch
from stream_mtl.rehearsal.base import Context, Draw
from stream_mtl.state import State


def none(rows: int, settings: config.Rehearsal) -> tuple[Draw, ...]:
    return ()


class Nothing:
    """Of methods that are all in their draws."""

    def __init__(self, context: Context) -> None:
        del context

    def fresh_shift(self, fresh: Batch) -> Tensor | None:
        return None

    def losses(self, fresh: Batch, logit_BC: Tensor) -> Tensor | None:
        return None

    def learned(self, fresh: Batch, version: int) -> None:
        """Remembers nothing."""

    def consolidate(self, version: int) -> None:
        """Knows no spans."""

    def state(self) -> State:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        del state
