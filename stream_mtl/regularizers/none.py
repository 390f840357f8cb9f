"""No regulariser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from stream_mtl.backward import Grad, Gradients
from stream_mtl.joint_loss import JointRows
from stream_mtl.regularizers.base import Lesson
from stream_mtl.state import State


class Free:
    """Parameters move as their losses have it."""

    consolidates = False
    rows = steps = 0

    def penalized(self, found: Gradients) -> Gradients:
        return found

    def before_update(self, rows: JointRows, spread_T: Tensor) -> None:
        """Looks at nothing."""

    def after_update(self, dense: Grad) -> None:
        """Remembers nothing."""

    def consolidate(self, lessons: Sequence[Lesson]) -> bool:
        del lessons
        return False

    def state(self) -> State:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        del state
