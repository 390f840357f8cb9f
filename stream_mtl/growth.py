"""A model that may grow: private experts that a task gains while it learns, and loses when they are idle.

All that a task may ever gain is allocated from the start, so that growing changes no shape: what grows is a list of those in use,
which is part of the state. A new expert adds gate(x) * expert(x) to what its task has mixed; the gate is linear and starts at
zero, so nothing that is predicted jumps, and has its whole gradient from the first step (beside a softmax a share that
starts near zero would learn as slowly as it is small). When to grow is decided elsewhere, and recorded there.
Legend: B rows, X inputs, H width, S spare experts of one task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from stream_mtl.errors import ConfigError
from stream_mtl.experts import Experts
from stream_mtl.linear import linear
from stream_mtl.state import State


class SpareExperts(nn.Module):
    """Those of one task; `in_use` says which."""

    def __init__(self, inputs: int, spare: int, hidden: int, generator: Generator) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Experts(inputs, 1, hidden, generator) for _ in range(spare))
        self.gates = nn.ModuleList(nn.Linear(inputs, 1) for _ in range(spare))
        for parameter in self.gates.parameters():
            nn.init.zeros_(parameter)
        self.offset = nn.Parameter(torch.zeros(hidden))  # what merged experts said on average
        self.in_use = [False] * spare

    def forward(self, input_BX: Tensor) -> Tensor:
        """B x H, or H while none is in use: to be added to what the task has mixed."""
        added: Tensor = self.offset
        for slot, used in enumerate(self.in_use):
            if used:
                added = added + self.said(slot, input_BX)
        return added

    def said(self, slot: int, input_BX: Tensor) -> Tensor:
        """B x H, what one expert adds."""
        gate_B1: Tensor = self.gates[slot](input_BX)
        expert_BH: Tensor = self.experts[slot](input_BX).squeeze(1)
        return gate_B1 * expert_BH

    def free(self) -> int | None:
        """The first expert that is not in use."""
        return self.in_use.index(False) if False in self.in_use else None

    @torch.no_grad()
    def take(self, slot: int, generator: Generator) -> None:
        """Begin with new weights and a gate at zero."""
        layer = self.experts[slot].get_submodule("linear")
        fresh = linear(layer.get_parameter("weight").shape[1], len(self.offset), generator)
        for name, value in fresh.named_parameters():
            layer.get_parameter(name).copy_(value)
        for parameter in self.gates[slot].parameters():
            parameter.zero_()
        self.in_use[slot] = True

    @torch.no_grad()
    def merge(self, slot: int, input_BX: Tensor) -> None:
        """Give an expert up; what it says of these rows on average stays as a constant."""
        self.offset.add_(self.said(slot, input_BX).mean(0))
        self.in_use[slot] = False

    @torch.no_grad()
    def use(self, slot: int, input_BX: Tensor) -> float:
        """Mean size of what an expert adds, an activation; one of a usual expert is about .4."""
        return float(self.said(slot, input_BX).abs().mean())

    def parts(self, slot: int) -> list[nn.Parameter]:
        return [*self.experts[slot].parameters(), *self.gates[slot].parameters()]


class Growth:
    """The spare experts of the learning model, and beside them those of the one that is served."""

    def __init__(self, tasks: Sequence[str], model: object, served: object) -> None:
        self._tasks = tasks
        self._live, self._served = spares(model), spares(served)

    def __bool__(self) -> bool:
        return bool(self._live)

    def grow(self, task: str, seed: int) -> list[nn.Parameter]:
        """The parameters that begin anew; none where the task has all that it may.

        Raises ConfigError for a model that cannot grow.
        """
        if not self._live:
            raise ConfigError(
                "only model.name = 'cgc' with model.spare_experts > 0 can grow; set both, or do not ask"
            )
        place = self._tasks.index(task)
        slot = self._live[place].free()
        if slot is None:
            return []
        for of_tasks in (self._live, self._served):
            of_tasks[place].take(slot, Generator().manual_seed(seed))
        return self._live[place].parts(slot)

    def merge_idle(self, input_BX: Tensor, below: float) -> list[str]:
        """Gives up experts that add less than `below` to these rows; whose they were (`task/slot`)."""
        merged = []
        for task, live, served in zip(self._tasks, self._live, self._served, strict=True):
            for slot in [s for s, used in enumerate(live.in_use) if used]:
                if live.use(slot, input_BX) < below:
                    for one in [live] if live is served else [live, served]:
                        one.merge(slot, input_BX)
                    merged.append(f"{task}/{slot}")
        return merged

    def state(self) -> State:
        return {"in_use": [list(one.in_use) for one in self._live]} if self._live else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        for of_tasks in (self._live, self._served) if self._live else ():
            for one, used in zip(of_tasks, state["in_use"], strict=True):
                one.in_use = [bool(slot) for slot in used]


def spares(model: object) -> list[SpareExperts]:
    """Of every task, in their order; empty for a model that does not grow."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return [m for m in modules if isinstance(m, SpareExperts)]
