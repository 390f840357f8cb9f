"""Rehearsal's part of a step: which remembered rows it sees, and what they teach.

Its random numbers come from (seed, steps done). Legend: T tasks, U touched table rows, R rows of a sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from stream_mtl.adaptation import Adaptation
from stream_mtl.batch import Batch
from stream_mtl.config import Config
from stream_mtl.hashing import hash64
from stream_mtl.held import Held, Sample
from stream_mtl.interference import Interference
from stream_mtl.joint_loss import Rehearsed
from stream_mtl.memory.base import Memory
from stream_mtl.optim import copy_tensors
from stream_mtl.prior_shift import corrected
from stream_mtl.registry import entry
from stream_mtl.rehearsal import REHEARSALS
from stream_mtl.rehearsal.base import Context, Draw
from stream_mtl.samplers import SAMPLERS
from stream_mtl.samplers.base import Ask
from stream_mtl.state import State


class Rehearser:
    """Draws from every memory; keeps when table rows were last updated, if the sampler asks for it."""

    def __init__(
        self, config: Config, context: Context, held: Sequence[Held], memories: Sequence[Memory]
    ) -> None:
        self._config, self._context = config, context
        self._held, self._memories = held, memories
        self._draws = entry("rehearsal.loss", config.rehearsal.loss, REHEARSALS).draws
        self._sampler = entry("memory.sampler", config.memory.sampler, SAMPLERS)
        self._interference = Interference(context, config.optimizer.dense == "sgd")
        tracked = config.memory.sampler == "staleness"
        rows = len(context.table_RH) if tracked else 0
        self._touched_R = torch.zeros(rows, dtype=torch.int64, device=context.table_RH.device)
        self.adapt(Adaptation())

    def adapt(self, adaptation: Adaptation) -> None:
        """How the coming draws differ from the configured ones."""
        age = adaptation.max_version_age
        self.max_version_age = self._config.rehearsal.max_version_age if age is None else age
        self._ratio = self._config.rehearsal.ratio * adaptation.rehearsal

    def draw(
        self,
        fresh: Batch,
        version: int,
        spread_T: Tensor,
        rate: float,
        turn: int | None = None,
    ) -> list[Rehearsed]:
        """Rehearsed rows, split evenly over the tasks that remember any (the first get the rest), or of one task.

        `spread_T` and the dense `rate` are those of the coming step, for a sampler that tries it.
        """
        settings = self._config.rehearsal
        virtual = self._interference.of(fresh, spread_T, rate)
        total = round(self._ratio * len(fresh))
        tasks = range(len(self._memories)) if turn is None else (turn,)
        filled = [task for task in tasks if len(self._memories[task])]
        seed = hash64(f"rehearsal/{self._config.seed}/{version}")
        generator = Generator().manual_seed(seed)
        rehearsed: list[Rehearsed] = []
        for place, task in enumerate(filled):
            share = total // len(filled) + (place < total % len(filled))
            ask = Ask(
                len(self._held[task].edges) + 1,
                self._config.memory.mir_candidates,
                partial(self._staleness, version),
                partial(virtual.growth, task),
            )
            for draw in self._draws(share, settings):
                sample = self._sampler(self._memories[task], draw.rows, generator, ask)
                if sample is not None:
                    rehearsed += self._lessons(task, draw, sample, version)
        return rehearsed

    def _lessons(self, task: int, draw: Draw, sample: Sample, version: int) -> list[Rehearsed]:
        """What the draw teaches, without the preference of its sampler and without logits that are too old.

        Logits of a young model count less: they say what it did not know yet, and on small shops, where every model is
        young, they held the next one to it (google_merch, 310 clicks: AUC .598, with this .611).
        The staleness rule: after a drift the logits that older models stored are those of a regime that has
        passed, and would be distilled; the labels of the same rows still count.
        """
        sample, shift_W = corrected(sample, self._context.kinds[task], self._held[task])
        if not self.max_version_age or draw.logit_weight == 0:
            return [Rehearsed(task, draw, sample, shift_W, self._grown(draw, sample))]
        recent_R = sample.version_R >= version - self.max_version_age
        lessons = []
        if draw.label_weight > 0:
            lessons.append(Rehearsed(task, replace(draw, logit_weight=0.0), sample, shift_W))
        if bool(recent_R.any()):
            recent = sample.select(recent_R)
            of_logits = replace(draw, label_weight=0.0)
            grown_R = self._grown(of_logits, recent)
            lessons.append(Rehearsed(task, of_logits, recent, None, grown_R))
        return lessons

    def _grown(self, draw: Draw, sample: Sample) -> Tensor | None:
        """How far the models that stored these rows had come, 0 to 1; None where that does not matter."""
        young = self._config.rehearsal.young_steps
        if not young or draw.logit_weight == 0:
            return None
        return sample.version_R / (sample.version_R + young)

    def _staleness(self, version: int, sparse_RF: Tensor) -> Tensor:
        """Steps since a row's ids were updated, the coming one included; missing ids (0) do not count."""
        row_RL = self._context.lookup(sparse_RF)
        steps_RL = (version + 1 - self._touched_R[row_RL]).float()
        given_RL = row_RL != 0
        steps_R = (steps_RL * given_RL).sum(1) / given_RL.sum(1).clamp(min=1)
        return steps_R.clamp(min=1.0)

    def learned(self, row_U: Tensor, version: int) -> None:
        """A step that made `version` has updated these table rows."""
        if len(self._touched_R):
            self._touched_R[row_U] = version

    def state(self) -> State:
        return {"touched_R": self._touched_R} if len(self._touched_R) else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "sampler")
