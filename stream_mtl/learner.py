"""The joint update: one forward and one backward over fresh and rehearsed rows of all tasks.

A step is a pure function of state and rows: its random numbers come from (seed, steps done).
Legend: B rows, F sparse fields, H embedding width, T tasks, C logits of all heads, U touched table rows.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from stream_mtl.averaging import AveragedModel
from stream_mtl.balancers import BALANCERS
from stream_mtl.base_rates import BaseRates, LabelSums
from stream_mtl.batch import Batch, Spec
from stream_mtl.config import Config
from stream_mtl.errors import NumericError, StateError
from stream_mtl.hashing import hash64
from stream_mtl.joint_loss import (
    JointRows,
    active_tasks,
    join_rows,
    logit_shift,
    task_losses,
)
from stream_mtl.layers import Parts
from stream_mtl.memories import held_rows, new_memories
from stream_mtl.memory_overfit import overfitting
from stream_mtl.models import MODELS
from stream_mtl.optim import DenseOptimizer, TableOptimizer, clip_, copy_tensors
from stream_mtl.reference_gradient import kept_to, reference_gradients
from stream_mtl.registry import entry
from stream_mtl.rehearsal import REHEARSALS
from stream_mtl.rehearsal.base import Context
from stream_mtl.rehearser import Rehearser
from stream_mtl.state import State, misfits, nest, unnest
from stream_mtl.task_columns import task_kinds
from stream_mtl.trust import Trust

log = logging.getLogger(__name__)

_TABLE_STD = 0.05  # one Adagrad step at the default rate moves a row about this far
_PREDICT_ROWS = 1024  # of one forward: the experts' activations then stay in the CPU's cache
_JUDGED = 128  # rows that the trust is judged by, every second step; more say little more
_COUNTERS = ("version", "skipped", "skipped_in_a_row")


@dataclass(frozen=True, slots=True)
class Prediction:
    """Serving's view: no sampling offset. A funnel task's probability is that of the whole way."""

    prob_BT: Tensor  # one number a task: a probability, of a regression the value in its unit
    logit_BC: Tensor
    output_BC: Tensor  # all of it: of a multi-class task the probability of every class
    extra: dict[str, Tensor]  # <task>_given_<after>, shape B, of every funnel task


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did. Losses are normalised: 1 is as good as knowing the base rate."""

    step: int  # steps done when it was over
    losses: dict[str, float]  # of the tasks that were active
    weights: dict[str, float]
    grad_norm: float
    nonfinite: bool  # skipped before anything moved
    rows: int
    rehearsed: int
    digest: str  # hex, 128 bit: touched rows after the step, and losses


class Learner:
    """Model and its average, embedding table, optimisers, balancer, base rates and one memory a task."""

    def __init__(self, spec: Spec, config: Config, device: torch.device) -> None:
        self._spec, self._config, self._device = spec, config, device
        self._kinds = task_kinds(spec, config)
        generator = Generator().manual_seed(hash64(f"weights/{config.seed}"))
        parts = Parts(spec, config.model, self._kinds, generator)
        self._model = entry("model.name", config.model.name, MODELS)(parts)
        if isinstance(self._model, nn.Module):
            self._model.to(device)
        table_RH = torch.empty(spec.table_rows, config.model.embedding_dim)
        table_RH.normal_(0.0, _TABLE_STD, generator=generator)[0] = 0.0
        self._table_RH = table_RH.to(device)
        self._named = list(self._model.named_parameters())
        self._parameters = [parameter for _, parameter in self._named]
        self._average = AveragedModel(self._model, config.learner.average)
        self._dense = DenseOptimizer(self._named, config.optimizer)
        self._table = TableOptimizer(self._table_RH, config.optimizer)
        weight_T = torch.tensor([config.tasks[name].weight for name in spec.tasks])
        self._balancer = entry("balancer.name", config.balancer.name, BALANCERS)(weight_T)
        self._rates = BaseRates(self._kinds, device)
        self._trust = Trust(self._kinds, device)
        self._held = held_rows(spec, self._kinds, config.memory, config.seed, device)
        self._memories = new_memories(self._held, config.memory)
        tasks = [(name, config.tasks[name]) for name in spec.tasks]
        self._context = Context(self._kinds, tasks, self._model, self._table_RH, config.rehearsal)
        self._aid = entry("rehearsal.loss", config.rehearsal.loss, REHEARSALS).aid(self._context)
        self.rehearser = Rehearser(config, self._context, self._held, self._memories)
        self._heads = self._parameter_owners()
        self._version = self._skipped = self._skipped_in_a_row = 0

    @property
    def version(self) -> int:
        """Optimiser steps done."""
        return self._version

    @property
    def skipped(self) -> int:
        """Steps that were refused because a loss or gradient was not finite."""
        return self._skipped

    def memory_rows(self) -> dict[str, int]:
        return {
            name: len(memory) for name, memory in zip(self._spec.tasks, self._memories, strict=True)
        }

    # --- serving --------------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, batch: Batch, ranking: bool = False) -> Prediction:
        """Probabilities of every row and task, in the order of `spec.tasks`; changes nothing.

        `ranking`: for a list to be published, where a model has only the say that it has earned (`trust`).
        """
        batch = self._here(batch)
        pieces = [
            batch.rows(start, start + _PREDICT_ROWS)
            for start in range(0, len(batch), _PREDICT_ROWS)
        ] or [batch]
        logit_BC = torch.cat(
            [self._average.served(F.embedding(p.sparse_BF, self._table_RH), p) for p in pieces]
        )
        if ranking:
            logit_BC = self._trust.serve(logit_BC, batch)
        prob_BT = torch.stack([kind.score(logit_BC) for kind in self._kinds], 1)
        output_BC = prob_BT
        if logit_BC.shape != prob_BT.shape:
            output_BC = torch.cat([kind.outputs(logit_BC) for kind in self._kinds], 1)
        names = self._spec.tasks
        extra = {
            f"{name}_given_{self._config.tasks[name].after}": logit_BC[:, kind.columns[0]].sigmoid()
            for name, kind in zip(names, self._kinds, strict=True)
            if len(kind.tasks) > 1
        }
        return Prediction(prob_BT, logit_BC, output_BC, extra)

    def overfitting(self, held_out: Batch) -> dict[str, float]:
        """Per task: loss of rows that were never trained on less that of remembered ones; changes nothing."""
        held_out = self._here(held_out)
        nothing = held_out.rows(0, 0)
        spread_T = self._rates.spread(self._rates.updated(nothing.label_BT, nothing.mask_BT))
        seed = hash64(f"overfitting/{self._config.seed}/{self._version}")
        return overfitting(self._context, self._held, self._memories, held_out, spread_T, seed)

    # --- learning -------------------------------------------------------------------------------

    def step(self, fresh: Batch) -> StepReport:
        """One optimiser step. The order matters:

        1. draw from the memories  2. one forward, losses, weights  3. one backward  4. refuse what is
        not finite  5. move dense parameters and touched rows  6. base rates, then memories take the
        fresh rows with the logits they had before the step.

        Raises NumericError after `learner.max_nonfinite` refused steps in a row. No rows: no step.
        """
        if not len(fresh):
            return StepReport(self._version, {}, {}, 0.0, False, 0, 0, "")
        fresh = self._here(fresh)
        sums = self._rates.updated(fresh.label_BT, fresh.mask_BT)
        spread_T = self._spread(sums)
        rate = self._dense.rate(self._version)
        rows = join_rows(fresh, self.rehearser.draw(fresh, self._version, spread_T, rate))
        row_U, inverse_BF = torch.unique(rows.batch.sparse_BF, return_inverse=True)
        touched_UH = self._table_RH.index_select(0, row_U).requires_grad_()
        logit_BC = self._model(F.embedding(inverse_BF, touched_UH), rows.batch)
        shift_BC = logit_shift(rows, self._kinds, self._aid.fresh_shift(fresh))
        loss_T = task_losses(rows, logit_BC, self._kinds, spread_T, shift_BC)
        active_T = active_tasks(rows)
        more_T = self._aid.losses(fresh, logit_BC[: len(fresh)])
        if more_T is not None:
            loss_T, active_T = loss_T + more_T / spread_T, active_T | (more_T > 0)
        weight_T = self._balancer.weights(loss_T.detach(), active_T)
        loss = (loss_T * weight_T).sum()
        sources = (touched_UH, *self._parameters)
        reference = reference_gradients(rows, logit_BC, self._kinds, spread_T, sources)
        gradients, gradient_UH = self._backward(loss, active_T.tolist(), touched_UH)
        if reference is not None:
            gradients, gradient_UH = kept_to(reference, gradients, gradient_UH)
        moving = [gradient_UH, *(g for g in gradients if g is not None)]
        norm = nn.utils.get_total_norm(moving)
        numbers = torch.cat(
            (loss_T.detach(), weight_T, torch.stack((loss.detach(), norm)))
        ).tolist()
        if not torch.tensor(numbers).isfinite().all():
            return self._refuse(len(fresh), rows)
        clip_(moving, numbers[-1], self._config.optimizer.clip_norm)
        self._dense.step(gradients, self._version)
        moved_UH = self._table.step(row_U, gradient_UH)
        self._rates.commit(sums)
        self._version, self._skipped_in_a_row = self._version + 1, 0
        self._average.update(self._version, [g is not None for g in gradients])
        logit_BC = logit_BC.detach()[: len(fresh)]
        if self._version % 2:
            judged = min(len(fresh), _JUDGED)
            self._trust.observe(logit_BC[:judged], fresh.rows(0, judged))
        for memory in self._memories:
            memory.add(fresh, logit_BC, self._version)
        self._aid.learned(fresh, self._version)
        self.rehearser.learned(row_U, self._version)
        return self._report(rows, numbers, active_T.tolist(), _digest(row_U, moved_UH, loss_T))

    def correct(self, batch: Batch) -> int:
        """Late labels: repairs the rows that memories hold; returns how many labels were written."""
        batch = self._here(batch)
        return sum(memory.repair(batch) for memory in self._memories)

    def consolidate(self) -> None:
        """A span of the stream ends here (a drift, a task's end): what distils an earlier model copies it now."""
        self._aid.consolidate(self._version)

    def erase(self, user_key: int) -> int:
        """Removes a user's rows from all memories; returns how many were held."""
        return sum(memory.erase(user_key) for memory in self._memories)

    # --- state ----------------------------------------------------------------------------------

    def state(self) -> State:
        state: State = {
            **nest("model", {name: p.detach() for name, p in self._named}),
            **nest("average", self._average.state()),
            "table_RH": self._table_RH,
            **nest("dense", self._dense.state()),
            **nest("table", self._table.state()),
            **nest("balancer", self._balancer.state()),
            **nest("rates", self._rates.state()),
            **nest("trust", self._trust.state()),
            **nest("rehearsal", self._aid.state()),
            **nest("sampler", self.rehearser.state()),
            "version": self._version,
            "skipped": self._skipped,
            "skipped_in_a_row": self._skipped_in_a_row,
        }
        for name, memory in zip(self._spec.tasks, self._memories, strict=True):
            state.update(nest(f"memory/{name}", memory.state()))
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Refuses with StateError, before anything is changed, what does not fit; says which parts."""
        faults = misfits(self.state(), state)
        if faults:
            raise StateError(
                f"saved learner does not fit this configuration: {'; '.join(faults)}; use the"
                " configuration it was saved with, or start these parts afresh"
            )
        copy_tensors({name: p for name, p in self._named}, unnest("model", state), "model")
        self._average.restore(unnest("average", state))
        self._table_RH.copy_(state["table_RH"])
        self._dense.restore(unnest("dense", state))
        self._table.restore(unnest("table", state))
        self._balancer.restore(unnest("balancer", state))
        self._rates.restore(unnest("rates", state))
        self._trust.restore(unnest("trust", state))
        self._aid.restore(unnest("rehearsal", state))
        self.rehearser.restore(unnest("sampler", state))
        for name, memory in zip(self._spec.tasks, self._memories, strict=True):
            memory.restore(unnest(f"memory/{name}", state))
        self._version, self._skipped, self._skipped_in_a_row = (int(state[k]) for k in _COUNTERS)

    # --- parts of a step ------------------------------------------------------------------------

    def _spread(self, sums: LabelSums) -> Tensor:
        """What the losses are divided by."""
        spread_T = self._rates.spread(sums)
        return spread_T if self._config.balancer.normalize else torch.ones_like(spread_T)

    def _here(self, batch: Batch) -> Batch:
        return batch if batch.sparse_BF.device == self._device else batch.to(self._device)

    def _parameter_owners(self) -> list[int]:
        """For every parameter the task of its head, or -1 for shared ones."""
        owner = {
            id(parameter): task
            for task in range(len(self._kinds))
            for parameter in self._model.head_parameters(task)
        }
        return [owner.get(id(parameter), -1) for parameter in self._parameters]

    def _backward(
        self, loss: Tensor, active: Sequence[bool], touched_UH: Tensor
    ) -> tuple[list[Tensor | None], Tensor]:
        """Gradients of all parameters; None for heads that no active task reads."""
        moved = {t for kind, on in zip(self._kinds, active, strict=True) if on for t in kind.tasks}
        wanted = [i for i, owner in enumerate(self._heads) if owner < 0 or owner in moved]
        sources = [touched_UH, *(self._parameters[i] for i in wanted)]
        found = torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)
        gradients: list[Tensor | None] = [None] * len(self._parameters)
        for i, gradient in zip(wanted, found[1:], strict=True):
            gradients[i] = gradient
        return gradients, found[0]

    def _refuse(self, fresh: int, rows: JointRows) -> StepReport:
        self._skipped += 1
        self._skipped_in_a_row += 1
        log.warning(
            "step refused: loss or gradient not finite (%d in a row)", self._skipped_in_a_row
        )
        if self._skipped_in_a_row >= self._config.learner.max_nonfinite:
            raise NumericError(
                f"loss or gradient was not finite in {self._skipped_in_a_row} steps in a row (after"
                f" {self._version} good ones); the model was left as it was before them. Look for"
                " non-finite features or too high a learning rate"
            )
        rehearsed = len(rows.batch) - fresh
        return StepReport(
            self._version, {}, {}, float("nan"), True, fresh, rehearsed, f"refused-{self._skipped}"
        )

    def _report(
        self, rows: JointRows, numbers: list[float], active: list[bool], digest: str
    ) -> StepReport:
        names = self._spec.tasks
        losses = {n: x for n, x, on in zip(names, numbers, active, strict=False) if on}
        weights = dict(zip(names, numbers[len(names) :], strict=False))
        fresh, rehearsed = rows.fresh, len(rows.batch) - rows.fresh
        return StepReport(
            self._version, losses, weights, numbers[-1], False, fresh, rehearsed, digest
        )

    def dense_digest(self) -> str:
        """Of all dense parameters as they are now (hex, 128 bit): asked for once a cut."""
        return _digest(nn.utils.parameters_to_vector(self._parameters))


def _digest(*tensors: Tensor) -> str:
    hashed = hashlib.sha256()  # in hardware, twice as fast as blake2b
    for tensor in tensors:
        hashed.update(tensor.detach().cpu().numpy().tobytes())
    return hashed.hexdigest()[:32]
