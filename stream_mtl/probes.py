"""Frozen probe sets and live forgetting.

For every (task, domain) some matured rows are kept out of training, by the hash of their list, and then
measured again and again: what the model once knew of a domain that is quiet now shows here alone.

With `evaluation.probe_period_ms` a domain has a set for each span of event time, of which the newest few are kept: then it
also shows what was known of the shop of a month ago.

Of every set four figures are kept: as its rows were served, when it was first measured, the best, and now. From them follow, as
means over the sets of a task (`transfer` has the definitions for a whole matrix of stages):

    forgetting, max definition        best - now      (Chaudhry et al., ECCV 2018; over all measurements, so never negative)
    backward transfer                 now - first     (its negative is forgetting by the first-minus-last definition)
    forward transfer                  served - chance (of all sets but the first; chance is what knowing nothing gives)

A figure is the AUC; of tasks without a yes or no the share of right classes, or of the variance that is explained. On a stream there
is no moment just before a domain: forward transfer is of what was said when the set's rows were shown, while the domain was new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stream_mtl import batch as batches
from stream_mtl import config as settings
from stream_mtl.batch import Batch, Spec
from stream_mtl.errors import StateError
from stream_mtl.hashing import mix64
from stream_mtl.tasks.base import Spread, TaskKind

SALT = 101  # of the hash that picks lists; no other use of `mix64` may share it
MIN_CLASS = 20  # rows of each class below which an AUC is noise
MIN_ROWS = 500  # a set that is not full is frozen only from here on
SOME = 256  # rows of a set that are looked at for other measures than its own
MAX_DOMAINS = 32  # of a task; more would make the sets' memory unbounded
FIGURES = ("frozen", "best", "now", "first", "served")  # of a set, as they are saved

Key = tuple[int, int, int]  # task index, domain index, span of event time


def is_probe(list_key_B: Tensor, share: float) -> Tensor:
    """Mask of the rows whose whole list is held out: a hash of the list decides, so revisions agree."""
    hash_B = mix64(list_key_B.cpu().numpy(), SALT)
    return torch.from_numpy(hash_B < int(share * 2**63))


def exact_auc(score_N: npt.NDArray[Any], positive_N: npt.NDArray[np.bool_]) -> float:
    """Share of (positive, negative) pairs in the right order, ties counting half."""
    negatives = np.sort(score_N[~positive_N])
    positives = score_N[positive_N]
    below = np.searchsorted(negatives, positives, "left")
    up_to = np.searchsorted(negatives, positives, "right")
    return float((below + up_to).sum() / (2.0 * len(negatives) * len(positives)))


@dataclass(frozen=True, slots=True)
class Judge:
    """How well a probe set is known, from 0 (nothing) to 1: AUC; share of right classes; part of the variance."""

    column: int
    width: int
    spread: Spread

    @property
    def columns(self) -> slice:
        return slice(self.column, self.column + self.width)

    @property
    def chance(self) -> float:
        """What knowing nothing gives."""
        return {"entropy": 0.5, "class_entropy": 1 / self.width, "variance": 0.0}[self.spread]

    def can_judge(self, label_B: npt.NDArray[Any]) -> bool:
        """Two classes with enough rows each, or numbers that differ."""
        if self.spread == "variance":
            return len(label_B) >= MIN_CLASS and bool(label_B.std() > 0)
        share_C = np.unique(
            label_B > 0.5 if self.spread == "entropy" else label_B, return_counts=True
        )
        return bool((share_C[1] >= MIN_CLASS).sum() >= 2)

    def __call__(self, said_BW: npt.NDArray[Any], label_B: npt.NDArray[Any]) -> float:
        if self.spread == "entropy":
            return exact_auc(said_BW[:, 0], label_B > 0.5)
        if self.spread == "class_entropy":
            return float((said_BW.argmax(1) == label_B).mean())
        error = np.square(said_BW[:, 0] - label_B).mean()
        return float(max(0.0, 1 - error / label_B.var()))


@dataclass(slots=True)
class ProbeSet:
    """Rows of one task, domain and span. Once frozen, no row enters, so that all but `served` compare."""

    parts: list[Batch] = field(default_factory=list)
    said: list[Tensor] = field(default_factory=list)  # of the task, as served, until frozen
    rows: int = 0
    frozen: bool = False
    best: float | None = None
    now: float | None = None
    first: float | None = None
    served: float | None = None

    def whole(self) -> Batch:
        if len(self.parts) > 1:
            self.parts = [batches.concat(self.parts)]
        return self.parts[0]

    def freeze(self, judge: Judge, task: int) -> None:
        """No further rows; and how good what was served was, where enough of it can be judged."""
        self.frozen = True
        if self.said:
            said_BW = torch.cat(self.said).numpy()
            served_B = np.isfinite(said_BW[:, 0])  # NaN: never served
            label_B = self.whole().label_BT[:, task].numpy()[served_B]
            if judge.can_judge(label_B):
                self.served = judge(said_BW[served_B], label_B)
            self.said = []


class Probes:
    """The sets of all tasks and domains, in the order in which they were begun.

    A set is frozen when it is full, or at the first evaluation that finds at least MIN_ROWS rows (or
    the full number, if that is less) and MIN_CLASS of each class. A later label of a row in an open
    set replaces the earlier one.
    """

    def __init__(
        self, config: settings.Evaluation, spec: Spec, kinds: Sequence[TaskKind] | None = None
    ) -> None:
        self._rows, self._spec = config.probe_rows, spec
        self._period_ms, self._periods = config.probe_period_ms, config.probe_periods
        self._judges = [
            Judge(kind.columns[0], kind.width, kind.spread) for kind in kinds or ()
        ] or [Judge(task, 1, "entropy") for task in range(len(spec.tasks))]
        self._sets: dict[Key, ProbeSet] = {}

    def add(self, batch: Batch, served_BC: Tensor) -> None:
        """Take rows, and what was served of them, into the sets of the tasks whose label they know."""
        if not len(batch):
            return
        period_B = batch.time_B // self._period_ms if self._period_ms else torch.zeros(len(batch))
        place_B2 = torch.stack((batch.domain_B.long(), period_B.long()), 1)
        for domain, period in torch.unique(place_B2, dim=0).tolist():
            here_B = (place_B2[:, 0] == domain) & (place_B2[:, 1] == period)
            for task in range(len(self._spec.tasks)):
                known_B = here_B & batch.mask_BT[:, task]
                if known_B.any():
                    said_BW = served_BC[known_B, self._judges[task].columns]
                    self._add((task, domain, period), batch.select(known_B), said_BW)

    def _add(self, key: Key, rows: Batch, said_BW: Tensor) -> None:
        task = key[0]
        probe = self._sets.get(key)
        if probe is None:
            if not self._make_room(key):
                return
            probe = self._sets[key] = ProbeSet()
        if probe.frozen:
            return
        if probe.rows:
            new_B = _relabel(probe.whole(), rows, task)
            rows, said_BW = rows.select(new_B), said_BW[new_B]
        room = self._rows - probe.rows
        if len(rows):
            probe.parts.append(rows.rows(0, room).clone())
            probe.said.append(said_BW[:room].detach().cpu().clone())
            probe.rows += len(probe.parts[-1])
        if probe.rows >= self._rows:
            probe.freeze(self._judges[task], task)

    def _make_room(self, key: Key) -> bool:
        """Lets the oldest span of a task and domain go for a newer one; False where the set may not be begun."""
        task, domain, period = key
        spans = sorted(p for t, d, p in self._sets if (t, d) == (task, domain))
        if len(spans) < self._periods:
            domains = {d for t, d, _ in self._sets if t == task} | {domain}
            return len(domains) <= MAX_DOMAINS
        if period < spans[0]:
            return False
        del self._sets[task, domain, spans[0]]
        return True

    def evaluate(self, predict: Callable[[Batch], Tensor]) -> None:
        """Measure every set that can be: `predict` gives what is served, of shape B x C."""
        for (task, _, _), probe in self._sets.items():
            if probe.rows < (1 if probe.frozen else min(MIN_ROWS, self._rows)):
                continue
            rows, judge = probe.whole(), self._judges[task]
            label_B = rows.label_BT[:, task].numpy()
            if not judge.can_judge(label_B):
                continue
            if not probe.frozen:
                probe.freeze(judge, task)
            probe.now = judge(predict(rows)[:, judge.columns].detach().cpu().numpy(), label_B)
            probe.first = probe.now if probe.first is None else probe.first
            probe.best = probe.now if probe.best is None else max(probe.best, probe.now)

    def forgetting(self, task: int) -> float | None:
        """Best less now; None before any set was measured."""
        return _mean(
            [p.best - p.now for p in self._of(task) if p.best is not None and p.now is not None]
        )

    def backward(self, task: int) -> float | None:
        """Now less what was known when a set was first measured; None before any was."""
        return _mean(
            [p.now - p.first for p in self._of(task) if p.first is not None and p.now is not None]
        )

    def forward(self, task: int) -> float | None:
        """As served, above chance, of every set but the first that was begun; None before one can be judged."""
        chance = self._judges[task].chance
        return _mean([p.served - chance for p in self._of(task)[1:] if p.served is not None])

    def _of(self, task: int) -> list[ProbeSet]:
        return [probe for (t, _, _), probe in self._sets.items() if t == task]

    def some(self) -> Batch:
        """The first rows of every set; only the label of the set's own task is known."""
        parts = [batches.empty(self._spec)]
        for (task, _, _), probe in self._sets.items():
            if probe.rows:
                rows = probe.whole().rows(0, SOME)
                own_T = torch.arange(len(self._spec.tasks)) == task
                parts.append(replace(rows, mask_BT=rows.mask_BT & own_T))
        return batches.concat(parts)

    def told(self, task: int) -> list[dict[str, Any]]:
        """Of every set of a task: its domain's index, the event time its span starts at (None: there are no spans), rows and
        the four figures.
        """
        return [
            {
                "domain": domain,
                "from_ms": period * self._period_ms if self._period_ms else None,
                "rows": probe.rows,
                **{name: getattr(probe, name) for name in ("served", "first", "best", "now")},
            }
            for (t, domain, period), probe in sorted(self._sets.items(), key=lambda one: one[0])
            if t == task
        ]

    def measured(self) -> dict[tuple[str, int], tuple[float, float]]:
        """(task, domain index) to (best, now) of the sets that were measured; of several spans the newest."""
        return {
            (self._spec.tasks[task], domain): (probe.best, probe.now)
            for (task, domain, _), probe in sorted(self._sets.items(), key=lambda one: one[0])
            if probe.best is not None and probe.now is not None
        }

    def erase(self, user_key: int) -> int:
        """Drop the rows of a user, frozen or not; returns how many. What was measured stays as it was measured."""
        erased = 0
        for probe in self._sets.values():
            if probe.rows:
                rows = probe.whole()
                kept_B = rows.user_key_B != user_key
                kept = rows.select(kept_B)
                erased += probe.rows - len(kept)
                probe.parts, probe.rows = [kept], len(kept)
                if probe.said:
                    probe.said = [torch.cat(probe.said)[kept_B]]
        return erased

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "probes": [
                [
                    self._spec.tasks[task],
                    domain,
                    period,
                    *(getattr(probe, name) for name in FIGURES),
                ]
                for (task, domain, period), probe in self._sets.items()
            ]
        }
        for (task, *place), probe in self._sets.items():
            name = _name(self._spec.tasks[task], *place)
            rows = probe.whole()
            state |= {f"{name}/{f.name}": getattr(rows, f.name) for f in fields(rows)}
            if probe.said:
                probe.said = [torch.cat(probe.said)]
                state[f"{name}/said"] = probe.said[0]
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        widths = batches.empty(self._spec)
        self._sets = {}
        for task, domain, *saved in state["probes"]:
            # until fold version 6 a set had no span, nor the figures since
            period, *figures = (0, *saved, None, None) if isinstance(saved[0], bool) else saved
            if task not in self._spec.tasks:
                raise StateError(f"probes: a set of task {task!r}, which this config does not have")
            name = _name(task, domain, period)
            rows = Batch(*(state[f"{name}/{f.name}"] for f in fields(Batch)))
            for f in fields(Batch):
                got, wanted = getattr(rows, f.name), getattr(widths, f.name)
                if got.shape[1:] != wanted.shape[1:] or got.dtype != wanted.dtype:
                    raise StateError(
                        f"probes: {f.name} of {task} is {got.dtype}{tuple(got.shape)} in the state, "
                        f"expected {wanted.dtype}(rows, {tuple(wanted.shape[1:])})"
                    )
            key = (self._spec.tasks.index(task), int(domain), int(period))
            probe = ProbeSet([rows], [], len(rows), **dict(zip(FIGURES, figures, strict=True)))
            if not probe.frozen:
                never_BW = torch.full((len(rows), self._judges[key[0]].width), torch.nan)
                probe.said = [state.get(f"{name}/said", never_BW)]
            self._sets[key] = probe


def _name(task: str, domain: int, period: int) -> str:
    return f"probe/{task}/{domain}@{period}" if period else f"probe/{task}/{domain}"


def _mean(gaps: list[float]) -> float | None:
    return sum(gaps) / len(gaps) if gaps else None


def _relabel(kept: Batch, rows: Batch, task: int) -> Tensor:
    """Give rows that are kept already their newer label, in place; returns a mask of the rows that are new."""
    order_K = torch.argsort(kept.row_key_B)
    sorted_K = kept.row_key_B[order_K]
    place_B = torch.searchsorted(sorted_K, rows.row_key_B).clamp(max=len(sorted_K) - 1)
    known_B = sorted_K[place_B] == rows.row_key_B
    kept.label_BT[order_K[place_B[known_B]], task] = rows.label_BT[known_B, task]
    return ~known_B
