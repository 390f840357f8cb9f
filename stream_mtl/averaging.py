"""What is served: a fading average of the dense parameters over the steps (Polyak & Juditsky, 1992).

The newest parameters carry the noise of the newest rows; an average of the last few hundred steps carries less
of it at the same rate of learning. Embedding rows are not averaged: most of them move seldom.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from stream_mtl.models.base import Model
from stream_mtl.optim import copy_tensors
from stream_mtl.state import State

_EARLY = 10.0  # after n steps no older part than n / (n + 10) is kept: the start is soon forgotten


class AveragedModel:
    """`served` is the model to predict with; with decay 0 the learning model itself."""

    def __init__(self, model: Model, decay: float) -> None:
        """`decay`: the part of the average that a step keeps, below 1."""
        self._decay = decay
        self.served: Model = copy.deepcopy(model) if decay > 0 else model
        if isinstance(self.served, nn.Module):
            self.served.requires_grad_(decay == 0)
        self._live = [p.detach() for _, p in model.named_parameters()]
        self._named = [(name, p.detach()) for name, p in self.served.named_parameters()]

    def update(self, steps: int, moved: Sequence[bool]) -> None:
        """After every optimiser step; `steps`: how many there were, `moved`: which parameters it moved.

        The head of a task that was absent is served as it was.
        """
        if self._decay == 0:
            return
        keep = min(self._decay, steps / (steps + _EARLY))
        pairs = zip(self._named, self._live, moved, strict=True)
        mine, live = zip(*((p, new) for (_, p), new, some in pairs if some), strict=True)
        torch._foreach_lerp_(list(mine), list(live), 1 - keep)

    def state(self) -> State:
        return dict(self._named) if self._decay > 0 else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "averaged model")
