"""Avalanche's regulariser plugins, unchanged, on our model and micro-batches.

To a plugin this is its strategy: it reads `model`, `mbatch`, `loss`, `clock`, `optimizer`, `experience` and `_criterion` of
it, nothing else. An experience is a span of the stream. Where it differs from Avalanche's loop:

* The model it sees is a flat list of the dense parameters. Rows of the hashed table take no part: many ids share one, most move
  seldom, and "where it was when the span ended" says nothing of an id that came later.
* The penalty's gradient is added to the step's own, after a balancer has mixed it, for parameters that the step moves.
* A plugin hears of a step once it is known to be finite, so that a refused one leaves no trace.
* Rows of a span come from the memories, in lists that stay whole; the losses are weighted by declared importance.

Legend: T tasks, C logits of all heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stream_mtl.backward import Grad, Gradients
from stream_mtl.joint_loss import JointRows, logit_shift, task_losses
from stream_mtl.optim import copy_tensors
from stream_mtl.registry import entry
from stream_mtl.regularizers import REGULARIZERS
from stream_mtl.regularizers.base import Clock, Lesson, Method, Regularizer, Slots
from stream_mtl.regularizers.none import Free
from stream_mtl.rehearsal.base import Context
from stream_mtl.state import State

_CLOCK = ("train_iterations", "train_exp_counter")


def regularizer(context: Context) -> Regularizer:
    """The configured one. Raises ConfigError for an unknown name."""
    name = context.settings.regularizer
    method = entry("rehearsal.regularizer", name, REGULARIZERS)
    return TensorStrategy(method, context) if method else Free()


class View(nn.Module):
    """The model as a flat list of parameters: some plugins walk nested modules and others do not."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = (context,)  # in a tuple, so that its modules are not found
        for name, parameter in context.model.named_parameters():
            self.register_parameter(name.replace(".", "/"), parameter)

    def forward(self, lesson: Lesson) -> Tensor:
        (context,) = self._context
        batch = lesson.rows.batch
        return context.model(context.embedded(batch), batch)


@dataclass(frozen=True, slots=True)
class Gradual:
    """What a plugin takes for the optimiser: it clears gradients, and never steps."""

    parameters: Sequence[nn.Parameter]

    def zero_grad(self) -> None:
        """To zeros, not None: a head without labels has an importance too."""
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)

    def drop(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


class Lessons:
    """A dataset whose items are micro-batches already."""

    def __init__(self, lessons: Sequence[Lesson]) -> None:
        self._lessons = lessons

    def __len__(self) -> int:
        return len(self._lessons)

    def __getitem__(self, place: int) -> Lesson:
        return self._lessons[place]

    @staticmethod
    def collate_fn(items: Sequence[Lesson]) -> tuple[Lesson, Lesson, None]:
        """Input, target, and no task label."""
        (lesson,) = items
        return lesson, lesson, None


@dataclass(frozen=True, slots=True)
class Experience:
    dataset: Lessons


class TensorStrategy:
    """Drives one plugin. Its state is the plugin's."""

    consolidates = True
    train_mb_size = 1  # items of `Lessons`

    def __init__(self, method: Method, context: Context) -> None:
        self._method, self._context = method, context
        self.rows = context.settings.regularizer_rows if method.passes else 0
        weights = [task.weight for _, task in context.tasks]
        self.device = context.table_RH.device
        self._weight_T = torch.tensor(weights, device=self.device) / sum(weights)
        self.model = View(context)
        self._named = dict(self.model.named_parameters())
        self.optimizer = Gradual(list(self._named.values()))
        self.clock = Clock()
        self.loss = torch.zeros((), device=self.device)
        self.mbatch: tuple[Lesson, Lesson, None] | None = None
        self.experience: Experience | None = None
        self.plugin = method.make(context.settings)
        self._begin()

    def _begin(self) -> None:
        """A span: to Avalanche a call of `train` with one experience."""
        self.steps = 0
        self._call("before_training")
        self._call("before_training_exp")

    def _call(self, hook: str) -> None:
        getattr(self.plugin, hook)(self)
        self._method.mend(self.plugin, hook)

    def _criterion(self, logit_BC: Tensor, lesson: Lesson) -> Tensor:
        rows, kinds = lesson.rows, self._context.kinds
        shift_BC = logit_shift(rows, kinds, None)
        loss_T = task_losses(rows, logit_BC, kinds, lesson.spread_T, shift_BC)
        return (loss_T * self._weight_T).sum()

    def penalized(self, found: Gradients) -> Gradients:
        before = found.loss.detach()
        self.loss = before.clone() if before != 0 else torch.ones_like(before)  # MAS refuses a 0
        before = self.loss.clone()
        self._call("before_backward")
        if not self.loss.requires_grad:
            return found
        moving = [i for i, gradient in enumerate(found.dense) if gradient is not None]
        parameters = [self.optimizer.parameters[i] for i in moving]
        pulls = torch.autograd.grad(
            self.loss, parameters, allow_unused=True, materialize_grads=True
        )
        dense = list(found.dense)
        for i, pull in zip(moving, pulls, strict=True):
            gradient = dense[i]
            assert gradient is not None
            dense[i] = gradient + pull
        return replace(found, loss=found.loss + (self.loss.detach() - before), dense=dense)

    def before_update(self, rows: JointRows, spread_T: Tensor) -> None:
        lesson = Lesson(rows, spread_T)
        self.mbatch = (lesson, lesson, None)
        self._call("before_training_iteration")
        self.mbatch = None

    def after_update(self, dense: Grad) -> None:
        for parameter, gradient in zip(self.optimizer.parameters, dense, strict=True):
            parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
        self._call("after_training_iteration")
        self.optimizer.drop()
        self.clock.train_iterations += 1
        self.steps += 1

    def consolidate(self, lessons: Sequence[Lesson]) -> bool:
        if not self.steps or (self._method.passes and not lessons):
            return False
        self.experience = Experience(Lessons(lessons))
        self._call("after_training_exp")
        self.clock.train_exp_counter += 1
        self.experience = None
        self.optimizer.drop()
        self._begin()
        return True

    # --- state ----------------------------------------------------------------------------------

    def state(self) -> State:
        """A slot that does not exist yet is told as zeros: names and shapes never change."""
        live = self._method.slots(self.plugin, self.clock)
        state: State = {name: getattr(self.clock, name) for name in _CLOCK}
        state["steps"] = self.steps
        for slot, name in self._places():
            shape = self._named[name]
            one = live[slot][name].data if slot in live else torch.zeros_like(shape)
            state[f"{slot}/{name}"] = one.detach().view_as(shape)
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        from avalanche.training.utils import ParamData

        own = {name: value.clone() for name, value in self._tensors(self.state()).items()}
        copy_tensors(own, self._tensors(state), "regulariser")
        for name in _CLOCK:
            setattr(self.clock, name, int(state[name]))
        self.steps = int(state["steps"])
        slots: Slots = {}
        for slot, name in self._places():
            value = own[f"{slot}/{name}"]
            slots.setdefault(slot, {})[name] = ParamData(
                name, value.shape, init_tensor=value, device=value.device
            )
        self._method.install(self.plugin, self.clock, slots)

    def _places(self) -> Iterator[tuple[str, str]]:
        return ((slot, name) for slot in self._method.names for name in self._named)

    def _tensors(self, state: Mapping[str, Any]) -> State:
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}
