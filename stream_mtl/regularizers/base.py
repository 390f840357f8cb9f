"""A regulariser: what holds dense parameters near where they were when a span of the stream ended.

The methods are Avalanche's plugins, unchanged; `tensor_strategy` drives them. What a method's file says of its plugin is
how to make it and where it keeps what must survive a restart. Avalanche is imported when one is made, never before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from stream_mtl import config
from stream_mtl.backward import Grad, Gradients
from stream_mtl.joint_loss import JointRows
from stream_mtl.state import State

Slots = dict[str, dict[str, Any]]  # slot -> parameter -> Avalanche's ParamData


@dataclass(slots=True)
class Clock:
    """What the plugins read of Avalanche's clock."""

    train_iterations: int = 0  # steps taken
    train_exp_counter: int = 0  # spans ended


@dataclass(frozen=True, slots=True)
class Lesson:
    """Rows of one forward and what their losses are divided by (T): input and target of a plugin at once."""

    rows: JointRows
    spread_T: Tensor

    def to(self, device: object) -> Lesson:
        """Plugins move what they are given; it is where it belongs."""
        del device
        return self


def _left(plugin: Any, hook: str) -> None:
    del plugin, hook


@dataclass(frozen=True, slots=True)
class Method:
    """One plugin. `slots` gives its live state by name, `install` puts a saved one back; both know by the clock which
    slots exist yet."""

    make: Callable[[config.Rehearsal], Any]
    names: tuple[str, ...]  # of all slots
    slots: Callable[[Any, Clock], Slots]
    install: Callable[[Any, Clock, Slots], None]
    passes: bool = False  # looks at rows of a span when it ends
    mend: Callable[[Any, str], None] = _left  # after a hook of this name


class Regularizer(Protocol):
    """What the learner calls, in this order, in every step; and at the end of a span."""

    consolidates: bool  # whether the end of a span means anything to it
    rows: int  # of the span that it wants to see at its end
    steps: int  # of this span so far

    def penalized(self, found: Gradients) -> Gradients:
        """With the penalty's gradient in `dense`, and the penalty in `loss`."""
        ...

    def before_update(self, rows: JointRows, spread_T: Tensor) -> None:
        """The step is finite and will be taken; parameters have not moved yet."""
        ...

    def after_update(self, dense: Grad) -> None:
        """Parameters were moved by these gradients."""
        ...

    def consolidate(self, lessons: Sequence[Lesson]) -> bool:
        """A span ends; False where nothing was learned in it."""
        ...

    def state(self) -> State: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...
