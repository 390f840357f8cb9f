"""The joint update: one forward and one backward over fresh and rehearsed rows of all tasks.

A step is a pure function of state and rows: its random numbers come from (seed, steps done).
Legend: B rows, F sparse fields, H embedding width, T tasks, C logits of all heads, U touched table rows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from stream_mtl.adaptation import Adaptation
from stream_mtl.averaging import AveragedModel
from stream_mtl.backward import Backward
from stream_mtl.balancers import BALANCERS
from stream_mtl.balancers.base import Seen, Setup
from stream_mtl.base_rates import BaseRates, LabelSums
from stream_mtl.batch import Batch, Spec
from stream_mtl.config import Config
from stream_mtl.errors import ConfigError, NumericError, StateError
from stream_mtl.fine_tuning import FineTuned, FineTuning
from stream_mtl.gate import Limits
from stream_mtl.growth import Growth
from stream_mtl.hashing import hash64
from stream_mtl.health import health
from stream_mtl.joint_loss import (
    JointRows,
    active_tasks,
    join_rows,
    logit_shift,
    of_task,
    task_losses,
)
from stream_mtl.layers import Parts, droppers, dropping
from stream_mtl.lists import Lists
from stream_mtl.lookup import lookup
from stream_mtl.memories import at_capacity, held_rows, new_memories
from stream_mtl.memory.base import Memory
from stream_mtl.memory_overfit import overfitting
from stream_mtl.models import MODELS
from stream_mtl.modes import MODES
from stream_mtl.modes.base import Learning, Moves
from stream_mtl.optim import DenseOptimizer, Parameters, TableOptimizer, clip_, joint_norm
from stream_mtl.provisional import settled
from stream_mtl.reference_gradient import kept_to, reference_gradients
from stream_mtl.registry import entry
from stream_mtl.rehearsal import REHEARSALS
from stream_mtl.rehearsal.base import Context
from stream_mtl.rehearser import Rehearser
from stream_mtl.restricted import PRIOR, hidden_fields, restricted
from stream_mtl.serving import Prediction, Serving
from stream_mtl.span_rows import span_lessons
from stream_mtl.state import State, Stateful, misfits, nest, unnest
from stream_mtl.step_report import NO_STEP, StepReport, digest
from stream_mtl.task_columns import task_kinds
from stream_mtl.tasks.base import TaskKind
from stream_mtl.tensor_strategy import regularizer
from stream_mtl.trust import Trust
from stream_mtl.wiring import wired

log = logging.getLogger(__name__)

_TABLE_STD = 0.05  # one Adagrad step at the default rate moves a row about this far
_JUDGED = 128  # rows that the trust is judged by, every second step; more say little more
_COUNTERS = ("version", "skipped", "skipped_in_a_row")


class Learner:
    """Model and its average, embedding table, optimisers, balancer, base rates and one memory a task."""

    def __init__(self, spec: Spec, config: Config, device: torch.device) -> None:
        self._spec, self._config, self._device = spec, config, device
        self._kinds = task_kinds(spec, config)
        generator = Generator().manual_seed(hash64(f"weights/{config.seed}"))
        parts = Parts(spec, config.model, self._kinds, generator)
        model = wired(entry("model.name", config.model.name, MODELS)(parts), parts)
        hidden = [hidden_fields(spec, name, config.tasks[name].fields) for name in spec.tasks]
        self._model = restricted(model, parts, hidden)
        self._lookup, self._droppers = lookup(spec, config.model), droppers(self._model)
        if isinstance(self._model, nn.Module):
            self._model.to(device)
        table_RH = torch.empty(spec.table_rows, config.model.embedding_dim)
        table_RH.normal_(0.0, _TABLE_STD, generator=generator)[0] = 0.0
        self._table_RH = table_RH.to(device)
        self._named = list(self._model.named_parameters())
        self._parameters = [parameter for _, parameter in self._named]
        self._average = AveragedModel(self._model, config.learner.average)
        self._growth = Growth(spec.tasks, self._model, self._average.served)
        self._dense = DenseOptimizer(self._named, config.optimizer)
        self._table = TableOptimizer(self._table_RH, config.optimizer)
        weight_T = torch.tensor([config.tasks[name].weight for name in spec.tasks])
        setup = Setup(weight_T, config.balancer, config.seed)
        self._balancer = entry("balancer.name", config.balancer.name, BALANCERS)(setup)
        self._backward = Backward(
            self._model, self._kinds, self._balancer, weight_T, config.balancer
        )
        delayed = [config.tasks[name].delay != "window" for name in spec.tasks]
        self._delayed_T = torch.tensor(delayed, device=device) if any(delayed) else None
        self._rates = BaseRates(self._kinds, device)
        judged = [PRIOR not in of for of in hidden]
        self._trust = Trust(self._kinds, device, judged)
        self._held = held_rows(spec, self._kinds, config.memory, config.seed, device)
        self._memories = new_memories(self._held, config.memory)
        tasks = [(name, config.tasks[name]) for name in spec.tasks]
        self._context = Context(
            self._kinds, tasks, self._model, self._table_RH, config.rehearsal, self._lookup
        )
        self._aid = entry("rehearsal.loss", config.rehearsal.loss, REHEARSALS).aid(self._context)
        if config.rehearsal.loss == "agem" and self._backward.cuts:
            raise ConfigError(
                "rehearsal.loss = 'agem' needs the whole gradient of a step, which balancer.name ="
                f" {config.balancer.name!r} or balancer.affinity_every cuts at the heads; use another one"
            )
        self._mode = entry("learner.mode", config.learner.mode, MODES)(
            Learning(
                config.learner,
                config.seed,
                len(spec.tasks),
                self._parameters,
                self._backward.is_shared,
                self._table_RH,
                self._balancer,
            )
        )
        self._regularizer = regularizer(self._context)
        self._adaptation = Adaptation()
        self._serving = Serving(
            spec,
            self._kinds,
            self._average.served,
            self._table_RH,
            self._lookup,
            self._trust,
            self.conditional,
        )
        self._fine_tuning = FineTuning(
            config.fine_tune, self._serving, self._model, self._held, self._memories
        )
        self.rehearser = Rehearser(config, self._context, self._held, self._memories)
        self._version = self._skipped = self._skipped_in_a_row = 0

    @property
    def version(self) -> int:
        """Optimiser steps done."""
        return self._version

    @property
    def skipped(self) -> int:
        """Steps that were refused because a loss or gradient was not finite."""
        return self._skipped

    @property
    def conditional(self) -> dict[str, int]:
        """Scores beside those of the tasks: of each funnel step given the one before, and its column."""
        return {
            f"{name}_given_{self._config.tasks[name].after}": kind.columns[0]
            for name, kind in zip(self._spec.tasks, self._kinds, strict=True)
            if len(kind.tasks) > 1
        }

    @property
    def kinds(self) -> Sequence[TaskKind]:
        return self._kinds

    @property
    def columns(self) -> list[slice]:
        """Of every task, its columns in `Prediction.output_BC`."""
        starts = [kind.columns[0] for kind in self._kinds]
        return [slice(s, s + kind.width) for s, kind in zip(starts, self._kinds, strict=True)]

    @property
    def serving(self) -> Serving:
        """The model as it is served: moves with every step."""
        return self._serving

    def memory_rows(self) -> dict[str, int]:
        return {
            name: len(memory) for name, memory in zip(self._spec.tasks, self._memories, strict=True)
        }

    @property
    def measures_affinity(self) -> bool:
        return self._backward.cuts

    def affinity(self) -> Tensor:
        """T x T: mean cosines of the tasks' gradients lately (`task_affinity`); NaN where nothing was measured."""
        return self._backward.affinity.cosines()

    # --- serving --------------------------------------------------------------------------------

    def predict(self, batch: Batch | Lists, ranking: bool = False) -> Prediction:
        """Of every row and task, in the order of `spec.tasks`; changes nothing. `ranking`: see `Serving.predict`."""
        return self._serving.predict(batch, ranking)

    @torch.inference_mode()
    def health(self, batch: Batch) -> dict[str, float]:
        """How the learning model's experts and gates are, on these rows (`health`); changes nothing."""
        batch = self._here(batch)
        return health(self._model, self._context.embedded(batch), batch)

    def overfitting(self, held_out: Batch) -> dict[str, float]:
        """Per task: loss of rows that were never trained on less that of remembered ones; changes nothing."""
        held_out = self._here(held_out)
        spread_T = self._rates.spread(self._rates.sums)
        seed = hash64(f"overfitting/{self._config.seed}/{self._version}")
        return overfitting(self._context, self._held, self._memories, held_out, spread_T, seed)

    # --- learning -------------------------------------------------------------------------------

    def step(self, fresh: Batch) -> StepReport:
        """One optimiser step. The order matters:

        1. draw from the memories, of all tasks or of the one whose turn it is  2. one forward, losses, weights  3. one backward  4. refuse what is
        not finite  5. move dense parameters and touched rows  6. base rates and balancer, then memories take the
        fresh rows with the logits they had before the step.

        Raises NumericError after `learner.max_nonfinite` refused steps in a row. No rows: no step.
        """
        if not len(fresh):
            return replace(NO_STEP, step=self._version)
        fresh = self._here(fresh)
        known = settled(fresh, self._delayed_T)
        sums = self._rates.updated(known.label_BT, known.mask_BT)
        spread_T = self._spread(sums)
        rate = self._dense.rate(self._version) * self._adaptation.rate
        turn = self._turn(known, sums)
        fresh = of_task(fresh, turn)
        rows = join_rows(fresh, self.rehearser.draw(fresh, self._version, spread_T, rate, turn))
        row_U, inverse_BL = torch.unique(self._lookup(rows.batch.sparse_BF), return_inverse=True)
        touched_UH = self._table_RH.index_select(0, row_U).requires_grad_()
        with self._dropping():
            forward = self._backward.forward(touched_UH, inverse_BL, rows.batch, self._version)
        logit_BC = forward.logit_BC
        loss_T, active_T = self._losses(rows, fresh, logit_BC, spread_T, turn)
        seen = self._seen(rows, loss_T, active_T)
        sources = (touched_UH, *self._parameters)
        reference = reference_gradients(rows, logit_BC, self._kinds, spread_T, sources)
        found = self._backward.backward(forward, loss_T, seen)
        if reference is not None:
            dense, found_UH = kept_to(reference, found.dense, found.touched_UH)
            found = replace(found, dense=dense, touched_UH=found_UH)
        found = self._regularizer.penalized(found)
        moving = [found.touched_UH, *(g for g in found.dense if g is not None)]
        norm = joint_norm(moving)
        numbers = torch.cat(
            (loss_T.detach(), found.weight_T, torch.stack((found.loss.detach(), norm)))
        ).tolist()
        if not all(map(math.isfinite, numbers)):
            return self._refuse(len(fresh), rows)
        clip_(moving, numbers[-1], self._config.optimizer.clip_norm)
        self._regularizer.before_update(rows, spread_T)
        moves = self._mode.hold(Moves(found.dense, row_U, found.touched_UH), turn, loss_T)
        self._dense.step(moves.dense, rate)
        self._regularizer.after_update(moves.dense)
        moved_UH = self._table.step(moves.row_U, moves.touched_UH)
        self._rates.commit(sums)
        again = partial(self._losses_now, rows, fresh, row_U, inverse_BL, spread_T, turn)
        self._backward.learn(seen, found, again)
        self._version, self._skipped_in_a_row = self._version + 1, 0
        self._average.update(self._version, [g is not None for g in moves.dense])
        logit_BC = logit_BC.detach()[: len(fresh)]
        if self._version % 2:
            judged = min(len(fresh), _JUDGED)
            self._trust.observe(logit_BC[:judged], known.rows(0, judged))
        for memory in self._stores():
            memory.add(known, logit_BC, self._version)
        self._aid.learned(fresh, self._version)
        self.rehearser.learned(moves.row_U, self._version)
        done = digest(moves.row_U, moved_UH, loss_T)
        return self._report(rows, numbers, seen.active_T.tolist(), done)

    def adapt(self, adaptation: Adaptation) -> None:
        """How the coming steps differ from the configured ones; to be said anew before them, no state."""
        self._adaptation = adaptation
        self.rehearser.adapt(adaptation)

    def correct(self, batch: Batch) -> int:
        """Late labels: repairs the rows that memories hold; returns how many labels were written."""
        batch = self._here(batch)
        return sum(memory.repair(batch) for memory in self._stores())

    @property
    def consolidates(self) -> bool:
        """Whether the end of a span means anything to the configured methods."""
        return self._regularizer.consolidates or self._config.rehearsal.loss == "lwf"

    def consolidate(self) -> None:
        """A span of the stream ends here (a drift, a boundary in time): what holds on to an earlier model copies it now."""
        self._aid.consolidate(self._version)
        lessons = span_lessons(
            self._memories,
            self._regularizer.rows,
            self._version - self._regularizer.steps,
            self._spread(self._rates.sums),
            hash64(f"span/{self._config.seed}/{self._version}"),
        )
        self._regularizer.consolidate(lessons)

    def erase(self, user_key: int) -> int:
        """Removes a user's rows from all memories; returns how many were held."""
        return sum(memory.erase(user_key) for memory in self._stores())

    def places(self, sparse_NF: Tensor) -> Tensor:
        """Rows of the table that these are read from, those of private fields included (int64, without 0)."""
        row_L = self._lookup(sparse_NF).flatten()
        unique_U: Tensor = torch.unique(row_L[row_L > 0])
        return unique_U

    def forget_rows(self, row_U: Tensor) -> None:
        """Zeroes rows of the table and their moments."""
        self._table_RH[row_U] = 0.0
        self._table.forget(row_U)

    def forget(self, task: str) -> None:
        """Empties the memory of a task that is retired."""
        place = self._spec.tasks.index(task)
        self._memories[place] = new_memories([self._held[place]], self._config.memory)[0]
        self._fine_tuning.forget(place)

    def fine_tune(self, task: str, limits: Limits) -> FineTuned:
        """Train the head of one task and serve it where the gate promotes it; see `fine_tuning`.

        A decision of the fold: who calls records it.
        """
        place = self._spec.tasks.index(task)
        spread = float(self._rates.spread(self._rates.sums)[place])
        seed = hash64(f"fine_tune/{self._config.seed}/{self._version}/{task}")
        done = self._fine_tuning.tune(place, spread, limits, seed)
        if done.verdict.decision == "promote":
            self._dense.forget(self._fine_tuning.parameters(place))
        return done

    def head_versions(self) -> dict[str, int]:
        """Promoted fine-tunings of every task."""
        return dict(zip(self._spec.tasks, self._fine_tuning.version_T.tolist(), strict=True))

    def _stores(self) -> list[Memory]:
        return [*self._memories, *self._fine_tuning.stores()]

    # --- growth ---------------------------------------------------------------------------------

    def grow(self, task: str) -> bool:
        """One more private expert for a task; False where it has all that it may. No prediction changes at once.

        A decision of the fold: who calls records it. Raises ConfigError for a model that cannot grow.
        """
        begun = self._growth.grow(task, hash64(f"grow/{self._config.seed}/{self._version}/{task}"))
        self._dense.forget(begun)
        return bool(begun)

    @torch.no_grad()
    def merge_idle(self, batch: Batch, below: float = 0.01) -> list[str]:
        """Gives up grown experts that add less than `below` to an activation on these rows; tells whose (`task/slot`).

        A decision of the fold, as `grow` is.
        """
        if not self._growth:
            return []
        batch = self._here(batch)
        shared = self._model.shared(self._context.embedded(batch), batch)
        return self._growth.merge_idle(shared[0], below)

    # --- state ----------------------------------------------------------------------------------

    def state(self) -> State:
        state: State = {name: getattr(self, f"_{name}") for name in _COUNTERS}
        state["table_RH"] = self._table_RH
        for name, part in self._parts().items():
            state |= nest(name, part.state())
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Refuses with StateError, before anything is changed, what does not fit; says which parts."""
        faults = misfits(self.state(), state)
        if faults:
            raise StateError(
                f"saved learner does not fit this configuration: {'; '.join(faults)}; use the"
                " configuration it was saved with, or start these parts afresh"
            )
        self._table_RH.copy_(state["table_RH"])
        for name, part in self._parts().items():
            part.restore(unnest(name, state))
        self._version, self._skipped, self._skipped_in_a_row = (int(state[k]) for k in _COUNTERS)

    def at_capacity(self, saved: State) -> State:
        """A saved state whose memories have as many rows as are configured now, with what fits of theirs."""
        own, fitted = self.state(), dict(saved)
        for name, held in zip(self._spec.tasks, self._held, strict=True):
            place = f"memory/{name}"
            before = unnest(place, saved)
            if before and misfits(unnest(place, own), before):
                fitted |= nest(place, at_capacity(held, self._config.memory, before) or before)
        return fitted

    def _parts(self) -> dict[str, Stateful]:
        memories = zip(self._spec.tasks, self._memories, strict=True)
        return {
            "model": Parameters(self._named),
            "average": self._average,
            "growth": self._growth,
            "dense": self._dense,
            "table": self._table,
            "balancer": self._balancer,
            "affinity": self._backward.affinity,
            "rates": self._rates,
            "trust": self._trust,
            "rehearsal": self._aid,
            "mode": self._mode,
            "fine_tuning": self._fine_tuning,
            "sampler": self.rehearser,
            "regularizer": self._regularizer,
            **{f"memory/{name}": memory for name, memory in memories},
        }

    # --- parts of a step ------------------------------------------------------------------------

    def _spread(self, sums: LabelSums) -> Tensor:
        """What the losses are divided by."""
        if not self._config.balancer.normalize:
            return torch.ones(len(self._kinds), device=self._device)
        return self._rates.spread(sums)

    def _here(self, batch: Batch) -> Batch:
        return batch if batch.sparse_BF.device == self._device else batch.to(self._device)

    def _turn(self, known: Batch, sums: LabelSums) -> int | None:
        """Whose step this is."""
        if not self._mode.takes_turns:
            return None
        held_T = torch.tensor([len(memory) > 0 for memory in self._memories])
        there_T = known.mask_BT.any(0).cpu() | held_T
        return self._mode.turn(there_T, sums.rate_2T[1].cpu(), self._version)

    def _losses(
        self,
        rows: JointRows,
        fresh: Batch,
        logit_BC: Tensor,
        spread_T: Tensor,
        turn: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Of each task (T), and which are active: labels, remembered logits, and what the method adds."""
        shift_BC = logit_shift(rows, self._kinds, self._aid.fresh_shift(fresh))
        most = self._config.optimizer.clip_row_loss
        loss_T = task_losses(rows, logit_BC, self._kinds, spread_T, shift_BC, most)
        active_T = active_tasks(rows)
        more_T = self._aid.losses(fresh, logit_BC[: len(fresh)])
        if more_T is not None:
            if turn is not None:
                more_T = more_T * (torch.arange(len(more_T), device=more_T.device) == turn)
            loss_T, active_T = loss_T + more_T / spread_T, active_T | (more_T > 0)
        return loss_T, active_T

    @torch.no_grad()
    def _losses_now(
        self,
        rows: JointRows,
        fresh: Batch,
        row_U: Tensor,
        inverse_BL: Tensor,
        spread_T: Tensor,
        turn: int | None,
    ) -> Tensor:
        """Of these rows, with the model as it is after the step."""
        row_UH = self._table_RH.index_select(0, row_U)
        with self._dropping():  # the same units: what is compared is the step, not the draw
            logit_BC = self._backward.forward(row_UH, inverse_BL, rows.batch).logit_BC
        return self._losses(rows, fresh, logit_BC, spread_T, turn)[0]

    def _seen(self, rows: JointRows, loss_T: Tensor, active_T: Tensor) -> Seen:
        """What the balancer gets to know."""
        rows_T = rows.batch.mask_BT.sum(0)
        return Seen(loss_T.detach().cpu(), active_T.cpu(), rows_T.cpu(), self._version)

    def _dropping(self) -> AbstractContextManager[None]:
        """Dropout for this step; outside of it nothing is dropped."""
        return dropping(self._droppers, hash64(f"dropout/{self._config.seed}/{self._version}"))

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
        return digest(nn.utils.parameters_to_vector(self._parameters))
