"""What a balancer promises. Legend: T tasks.

Two kinds. A `Balancer` weighs losses from losses: one backward, nothing more. A `GradientBalancer` mixes
the tasks' gradients, from the inner products they have where the shared part of the model ends; it costs a
backward through the heads for every task. The learner asks which one it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from stream_mtl import config
from stream_mtl.state import State


@dataclass(frozen=True, slots=True)
class Setup:
    """What every balancer is made from."""

    weight_T: Tensor  # float32, > 0: declared importance; equal ones give the published method
    settings: config.Balancer
    seed: int


@dataclass(frozen=True, slots=True)
class Seen:
    """One step, as a balancer sees it: detached, on the CPU."""

    loss_T: Tensor  # normalised: 1 is as good as knowing the labels' distribution; 0 where inactive
    active_T: Tensor  # bool: whether anything was known. An inactive task is not a solved one
    rows_T: Tensor  # known labels, fresh and rehearsed
    step: int  # steps done before this one


class Balancer(Protocol):
    """Weights are shares: 0 for inactive tasks, summing to 1 over the active ones (`sum` alone does not scale).

    An inactive task changes neither state nor, but for the scaling, weights of the others, and its own
    state does not move. A single active task gets weight 1. Finite losses give finite weights.
    """

    def weights(self, seen: Seen) -> Tensor:
        """Float32, T. Changes nothing: the step may yet be refused."""
        ...

    def learn(self, seen: Seen, again: Callable[[], Tensor]) -> None:
        """After a step that was taken. `again` gives the losses (T) of its rows once more, for one more forward."""
        ...

    def state(self) -> State: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class GradientBalancer(Protocol):
    """As above, but what is weighed are the tasks' gradients on the shared part, and weights need not sum to 1.

    Heads get the gradients of their own losses, by declared importance.
    """

    def mix(self, seen: Seen, gram_TT: Tensor) -> Tensor:
        """Float32, T, from the inner products of the tasks' gradients; zero rows for inactive tasks."""
        ...

    def learn_mix(self, seen: Seen, gram_TT: Tensor) -> None:
        """After a step that was taken, with what `mix` was given."""
        ...

    def state(self) -> State: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...
