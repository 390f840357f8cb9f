"""The lessons of a simulated shop, recorded once and learned many times.

Features and labels do not depend on the model while no lists are published, so arms that differ in the
learner alone share them: the join and the features are run once, and every arm learns the same rows in
the same order as the fold itself would. A tape may also hold the rows that were shown, to be asked what they are
thought to be worth at the moment when they were shown, and the true probabilities.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.ladder import leave_out_lists
from benchmarks.repeated_rows import Repeated
from benchmarks.shop_stream import ShopStream
from stream_mtl import Config, build
from stream_mtl.batch import Batch, Spec, concat
from stream_mtl.composition import choose_device
from stream_mtl.learner import Learner, Prediction
from stream_mtl.pending import Pending
from stream_mtl.thinning import thinner

ADD, CORRECT, CUT, SHOWN = "add", "correct", "cut", "shown"
Told = tuple[str, Batch | None]  # None: a cut ends, and steps are taken
Mask = Callable[[Batch], Batch]


@dataclass
class Tape:
    """What the learner was told, in order, with the number of events read by then; and the rows held out.

    `clock`: event time by then; `truth`: P(click) and P(click and purchase) by exposure and item, of a tape with shown rows.
    """

    spec: Spec
    told: list[tuple[int, Told]] = field(default_factory=list)
    held_out: list[tuple[int, Batch]] = field(default_factory=list)
    clock: list[tuple[int, int]] = field(default_factory=list)
    truth: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def between(self, start: int, stop: int) -> Iterator[Told]:
        """Of the events after the first `start`, up to `stop`."""
        return (told for events, told in self.told if start < events <= stop)

    def probes(self, start: int, stop: int) -> Batch:
        """Held-out rows whose labels became known in that span."""
        return concat([batch for events, batch in self.held_out if start < events <= stop])


class _Recorder:
    """Stands where the waiting rows and the learner's ears are."""

    suffices = False  # for a step: none is taken

    def __init__(self, pipeline: Any, tape: Tape, shown: bool) -> None:
        self._tape, self._shown, self.events = tape, shown, 0
        parts = pipeline.parts
        self._columns = sum(kind.width for kind in parts.learner.kinds)
        parts.pending = self
        parts.learner.correct, parts.learner.predict = self.correct, self.predict
        parts.evaluation.observe = lambda served_BC, batch: None
        parts.evaluation.add_probes = self.add_probes

    def add(self, batch: Batch) -> None:
        self._note(ADD, batch)

    def correct(self, batch: Batch) -> int:
        self._note(CORRECT, batch)
        return 0

    def full(self) -> Iterator[Batch]:
        self._tape.told.append((self.events, (CUT, None)))
        return iter(())

    def predict(self, batch: Batch) -> Prediction:
        if self._shown:
            self._note(SHOWN, batch)
        none_BC = torch.zeros(len(batch), self._columns)
        return Prediction(none_BC, none_BC, none_BC, {})

    def add_probes(self, batch: Batch, served_BC: Tensor) -> None:
        if len(batch):
            self._tape.held_out.append((self.events, batch.clone()))

    def _note(self, kind: str, batch: Batch) -> None:
        if len(batch):
            self._tape.told.append((self.events, (kind, batch.clone())))


def record(scenario: str, events: int, seed: int, config: Config, shown: bool = False) -> Tape:
    """Run everything but the learner over the first `events` records of a scenario; `shown`: with the rows shown."""
    pipeline = build(config)
    leave_out_lists(pipeline)
    tape = Tape(pipeline.parts.features.spec)
    recorder = _Recorder(pipeline, tape, shown)
    stream = ShopStream(scenario, events, seed, keep_truth=shown)
    for cut in stream.cuts(config):
        recorder.events += len(cut.records)
        tape.clock.append((recorder.events, pipeline.step(cut).event_time))
    tape.truth = stream.truth
    return tape


class Pupil:
    """A learner and its waiting rows.

    Arms with rehearsal and without do the same work (`repeated_rows`). `said` grows with what is predicted of the rows
    shown, `rows` with what is told before any is thinned, `cpu_s` with what steps cost.
    """

    def __init__(self, spec: Spec, config: Config) -> None:
        self._spec, self._config = spec, config
        self.learner = Learner(spec, config, choose_device(config.device))
        settings = config.learner
        self._pending = Pending(
            spec, settings.batch_rows, settings.first_rows, thinner(config.tasks)
        )
        self._repeated = Repeated(config)
        self._shown: list[Batch] = []
        self.said: list[Tensor] = []
        self.rows, self.cpu_s = 0, 0.0

    def learn(self, told: Iterable[Told], mask: Mask | None = None) -> None:
        for kind, batch in told:
            if batch is None:
                for rows in self._pending.full():
                    self._step(rows)
                continue
            if kind == SHOWN:
                self._shown.append(batch)
                continue
            rows = batch if mask is None else mask(batch)
            if kind == ADD:
                self.rows += len(rows)
                self._pending.add(rows)
            else:
                self.learner.correct(rows)
        self._say()

    def _step(self, fresh: Batch) -> None:
        self._say()
        began = time.process_time()
        self.learner.step(self._repeated.rows(fresh))
        self.cpu_s += time.process_time() - began

    def _say(self) -> None:
        """Of the rows shown since the step before: between steps the answer does not change."""
        if self._shown:
            self.said.append(self.learner.predict(concat(self._shown)).prob_BT)
            self._shown = []

    def twin(self) -> Pupil:
        """Another who knows the same."""
        other = Pupil(self._spec, self._config)
        other.learner.restore(deepcopy(self.learner.state()))
        other._pending, other._repeated = deepcopy(self._pending), deepcopy(self._repeated)
        return other


def never_told(tasks: Sequence[int]) -> Mask:
    """Labels of these tasks are unknown; a row that has no other label is not told at all."""

    def mask(batch: Batch) -> Batch:
        unknown_T = torch.zeros(batch.mask_BT.shape[1], dtype=torch.bool)
        unknown_T[list(tasks)] = True
        mask_BT = batch.mask_BT & ~unknown_T
        label_BT = batch.label_BT.masked_fill(unknown_T, 0.0)
        return replace(batch, mask_BT=mask_BT, label_BT=label_BT).select(mask_BT.any(1))

    return mask
