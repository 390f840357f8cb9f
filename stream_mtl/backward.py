"""From losses to gradients: one backward of their weighted sum, or one a task as far as the shared part.

Where gradients of tasks are looked at, the graph is cut where the shared part of the model ends: a
backward a task through the heads down to the cut, then one through the rest, of the mixed gradient.
Heads get the gradients of their own losses either way.

Where the products are taken: at the border, which costs no more but sees only rows that both tasks have
a label in (late labels come in rows of their own); or of the shared parameters, which sees all, for a backward
through the trunk a task.
Legend: B rows, F sparse fields, H embedding width, C logits, T tasks, A active ones, U touched table rows,
N numbers of one shared part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_mtl import config
from stream_mtl.balancers.base import Balancer, GradientBalancer, Seen
from stream_mtl.balancing import shares
from stream_mtl.batch import Batch
from stream_mtl.models.base import Model
from stream_mtl.task_affinity import TaskAffinity
from stream_mtl.tasks.base import TaskKind

Grad = list[Tensor | None]  # one a parameter; None: it does not move


@dataclass(frozen=True, slots=True)
class Forward:
    """One forward. `border` stands for `shared` behind a cut; both empty where nothing is cut."""

    touched_UH: Tensor
    logit_BC: Tensor
    shared: tuple[Tensor, ...] = ()
    border: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class Gradients:
    loss: Tensor  # weighted sum
    weight_T: Tensor  # of the losses, or of the gradients where those are mixed
    dense: Grad
    touched_UH: Tensor
    gram_TT: Tensor | None  # on the CPU: inner products, where they were looked at


class Backward:
    """Runs the backward that the balancer asks for. Its one state is `affinity`, what it saw of gradients."""

    def __init__(
        self,
        model: Model,
        kinds: Sequence[TaskKind],
        balancer: Balancer | GradientBalancer,
        weight_T: Tensor,
        settings: config.Balancer,
    ) -> None:
        """`weight_T`: declared importance."""
        self._model, self._kinds = model, kinds
        self._weight_T, self._every = weight_T, settings.affinity_every
        self._whole = settings.gradients == "parameters"
        self._parameters = [parameter for _, parameter in model.named_parameters()]
        self._heads = _owners(model, len(kinds), self._parameters)
        self._shared = [i for i, owner in enumerate(self._heads) if owner < 0]
        # asked once: whether an object keeps a protocol takes longer than a layer's forward
        self._mixer = balancer if isinstance(balancer, GradientBalancer) else None
        self._weigher = None if isinstance(balancer, GradientBalancer) else balancer
        self.affinity = TaskAffinity(len(kinds), on=self.cuts)

    def forward(
        self, touched_UH: Tensor, inverse_BF: Tensor, batch: Batch, step: int = -1
    ) -> Forward:
        """`step`: steps done before this one; -1: no gradients are wanted."""
        embedding_BFH = F.embedding(inverse_BF, touched_UH)
        if not len(touched_UH):
            embedding_BFH = embedding_BFH.detach()  # nobody wants the gradient of the inputs then
        if not self._cuts(step):
            return Forward(touched_UH, self._model(embedding_BFH, batch))
        shared = self._model.shared(embedding_BFH, batch)
        border = tuple(part.detach().requires_grad_() for part in shared)
        return Forward(touched_UH, self._model.read(border, batch), shared, border)

    def backward(self, forward: Forward, loss_T: Tensor, seen: Seen) -> Gradients:
        """Gradients of all parameters; None for heads that no active task reads. Changes no state."""
        if not forward.border:
            assert self._weigher is not None
            weight_T = self._weigher.weights(seen).to(loss_T.device)
            loss = (loss_T * weight_T).sum()
            dense, touched_UH = self._joint(loss, seen.active_T.tolist(), forward.touched_UH)
            return Gradients(loss, weight_T, dense, touched_UH, None)
        return self._task_by_task(forward, loss_T, seen)

    def learn(self, seen: Seen, found: Gradients, again: Callable[[], Tensor]) -> None:
        """After the step was taken; `again` gives the losses of its rows once more."""
        if found.gram_TT is not None:
            self.affinity.take(found.gram_TT)
        if self._mixer is not None:
            assert found.gram_TT is not None
            self._mixer.learn_mix(seen, found.gram_TT)
        elif self._weigher is not None:
            self._weigher.learn(seen, again)

    @property
    def is_shared(self) -> list[bool]:
        """Of every parameter, whether it belongs to no task's head."""
        return [owner < 0 for owner in self._heads]

    @property
    def cuts(self) -> bool:
        """Whether some forwards are cut at the border."""
        return self._every > 0 or self._mixer is not None

    def _cuts(self, step: int) -> bool:
        if step < 0:
            return False
        measured = self._every > 0 and step % self._every == 0
        return measured or self._mixer is not None

    def _joint(
        self, loss: Tensor, active: Sequence[bool], touched_UH: Tensor
    ) -> tuple[Grad, Tensor]:
        moved = {t for kind, on in zip(self._kinds, active, strict=True) if on for t in kind.tasks}
        wanted = [i for i, owner in enumerate(self._heads) if owner < 0 or owner in moved]
        sources = [touched_UH, *(self._parameters[i] for i in wanted)]
        found = torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)
        gradients: Grad = [None] * len(self._parameters)
        for i, gradient in zip(wanted, found[1:], strict=True):
            gradients[i] = gradient
        return gradients, found[0]

    def _task_by_task(self, forward: Forward, loss_T: Tensor, seen: Seen) -> Gradients:
        """1. every task to the border  2. inner products and weights  3. the mixed gradient through the trunk"""
        active = seen.active_T.nonzero().squeeze(1).tolist()
        if self._weigher is None:
            head_T = shares(torch.ones_like(self._weight_T), self._weight_T, seen.active_T)
        else:
            head_T = self._weigher.weights(seen)
        parts_AN, dense = self._to_border(forward.border, loss_T, active, head_T)
        trunk_AN = self._trunks(forward, parts_AN) if self._whole and active else None
        gram_TT = torch.zeros(len(loss_T), len(loss_T))
        at = torch.tensor(active, dtype=torch.int64)
        gram_TT[at[:, None], at] = _products(trunk_AN or parts_AN).cpu()
        weight_T = head_T if self._mixer is None else self._mixer.mix(seen, gram_TT)
        weight_T = weight_T.to(loss_T.device)
        if trunk_AN is None:
            touched_UH, *trunk = self._trunk(forward, _mixed(weight_T[active], parts_AN))
        else:
            touched_UH, *trunk = _mixed(weight_T[active], trunk_AN)
        for i, gradient in zip(self._shared, trunk, strict=True):
            dense[i] = gradient.view_as(self._parameters[i])
        touched_UH = touched_UH.view_as(forward.touched_UH)
        return Gradients((loss_T * weight_T).sum(), weight_T, dense, touched_UH, gram_TT)

    def _to_border(
        self, border: Sequence[Tensor], loss_T: Tensor, active: Sequence[int], head_T: Tensor
    ) -> tuple[list[Tensor], Grad]:
        """The tasks' gradients A x N of every part of the border, and the heads' own."""
        parts: list[list[Tensor]] = [[] for _ in border]
        dense: Grad = [None] * len(self._parameters)
        for task in active:
            read = self._kinds[task].tasks
            own = [i for i, owner in enumerate(self._heads) if owner in read]
            found = torch.autograd.grad(
                loss_T[task],
                [*border, *(self._parameters[i] for i in own)],
                retain_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            for part, gradient in zip(parts, found, strict=False):
                part.append(gradient.flatten())
            share = float(head_T[task])
            for i, gradient in zip(own, found[len(border) :], strict=True):
                before = dense[i]
                dense[i] = gradient * share if before is None else before + gradient * share
        return [
            torch.stack(part) if part else one.new_zeros(0, one.numel())
            for part, one in zip(parts, border, strict=True)
        ], dense

    def _trunks(self, forward: Forward, parts_AN: Sequence[Tensor]) -> list[Tensor]:
        """Each task's gradient of the touched rows and of every shared parameter, A x N."""
        tasks = range(len(parts_AN[0]))
        found = [self._trunk(forward, [part_AN[task] for part_AN in parts_AN]) for task in tasks]
        return [torch.stack([one.flatten() for one in of]) for of in zip(*found, strict=True)]

    def _trunk(self, forward: Forward, border: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """From a gradient at the border (each part of any shape) to that of touched rows and shared parameters."""
        shaped = [one.view_as(part) for one, part in zip(border, forward.border, strict=True)]
        return torch.autograd.grad(
            forward.shared,
            [forward.touched_UH, *(self._parameters[i] for i in self._shared)],
            shaped,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )


def _products(parts_AN: Sequence[Tensor]) -> Tensor:
    """Inner products A x A of the tasks' gradients."""
    return torch.stack([part_AN @ part_AN.T for part_AN in parts_AN]).sum(0)


def _mixed(weight_A: Tensor, parts_AN: Sequence[Tensor]) -> list[Tensor]:
    return [weight_A @ part_AN for part_AN in parts_AN]


def _owners(model: Model, tasks: int, parameters: Sequence[nn.Parameter]) -> list[int]:
    """For every parameter the task of its head, or -1 for shared ones."""
    owner = {id(p): task for task in range(tasks) for p in model.head_parameters(task)}
    return [owner.get(id(p), -1) for p in parameters]
