"""Frozen probe sets and live forgetting.

For every (task, domain) some matured rows are kept out of training, by the hash of their list, and then
measured again and again: what the model once knew of a domain that is quiet now shows here alone.

Forgetting, max definition (Chaudhry et al., ECCV 2018; the maximum runs over all evaluations, the last
included, so it is never negative): best AUC so far minus AUC now, averaged over the domains of a task. Of tasks
without a yes or no the share of right classes, or of the variance that is explained, takes its place.
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
from stream_mtl.batch import Batch, Spec
from stream_mtl.errors import StateError
from stream_mtl.hashing import mix64
from stream_mtl.tasks.base import Spread, TaskKind

SALT = 101  # of the hash that picks lists; no other use of `mix64` may share it
MIN_CLASS = 20  # rows of each class below which an AUC is noise
MIN_ROWS = 500  # a set that is not full is frozen only from here on
SOME = 256  # rows of a set that are looked at for other measures than its own
MAX_DOMAINS = 32  # sets a task; more domains would make the sets' memory unbounded


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
    """Rows of one task and domain. Once frozen, no row enters, so that `best` and `now` compare."""

    parts: list[Batch] = field(default_factory=list)
    rows: int = 0
    frozen: bool = False
    best: float | None = None
    now: float | None = None

    def whole(self) -> Batch:
        if len(self.parts) > 1:
            self.parts = [batches.concat(self.parts)]
        return self.parts[0]


class Probes:
    """The sets of all tasks and domains, in the order in which they were begun.

    A set is frozen when it is full, or at the first evaluation that finds at least MIN_ROWS rows (or
    the full number, if that is less) and MIN_CLASS of each class. A later label of a row in an open
    set replaces the earlier one.
    """

    def __init__(self, rows: int, spec: Spec, kinds: Sequence[TaskKind] | None = None) -> None:
        self._rows, self._spec = rows, spec
        self._judges = [
            Judge(kind.columns[0], kind.width, kind.spread) for kind in kinds or ()
        ] or [Judge(task, 1, "entropy") for task in range(len(spec.tasks))]
        self._sets: dict[tuple[int, int], ProbeSet] = {}  # (task index, domain index)

    def add(self, batch: Batch) -> None:
        """Take rows into the sets of the tasks whose label they know."""
        if not len(batch):
            return
        for domain in torch.unique(batch.domain_B).tolist():
            in_domain_B = batch.domain_B == domain
            for task in range(len(self._spec.tasks)):
                known = batch.select(in_domain_B & batch.mask_BT[:, task])
                if len(known):
                    self._add(task, int(domain), known)

    def _add(self, task: int, domain: int, rows: Batch) -> None:
        probe = self._sets.get((task, domain))
        if probe is None:
            if sum(t == task for t, _ in self._sets) >= MAX_DOMAINS:
                return
            probe = self._sets[task, domain] = ProbeSet()
        if probe.frozen:
            return
        if probe.rows:
            rows = _relabel(probe.whole(), rows, task)
        rows = rows.rows(0, self._rows - probe.rows)
        if len(rows):
            probe.parts.append(rows.clone())
            probe.rows += len(rows)
        probe.frozen = probe.rows >= self._rows

    def evaluate(self, predict: Callable[[Batch], Tensor]) -> None:
        """Measure every set that can be: `predict` gives what is served, of shape B x C."""
        for (task, _), probe in self._sets.items():
            if probe.rows < (1 if probe.frozen else min(MIN_ROWS, self._rows)):
                continue
            rows, judge = probe.whole(), self._judges[task]
            label_B = rows.label_BT[:, task].numpy()
            if not judge.can_judge(label_B):
                continue
            probe.frozen = True
            columns = slice(judge.column, judge.column + judge.width)
            probe.now = judge(predict(rows)[:, columns].detach().cpu().numpy(), label_B)
            probe.best = probe.now if probe.best is None else max(probe.best, probe.now)

    def forgetting(self, task: int) -> float | None:
        """Mean over the measured domains of best minus now; None before any was measured."""
        gaps = [
            probe.best - probe.now
            for (t, _), probe in self._sets.items()
            if t == task and probe.best is not None and probe.now is not None
        ]
        return sum(gaps) / len(gaps) if gaps else None

    def some(self) -> Batch:
        """The first rows of every set; only the label of the set's own task is known."""
        parts = [batches.empty(self._spec)]
        for (task, _), probe in self._sets.items():
            if probe.rows:
                rows = probe.whole().rows(0, SOME)
                own_T = torch.arange(len(self._spec.tasks)) == task
                parts.append(replace(rows, mask_BT=rows.mask_BT & own_T))
        return batches.concat(parts)

    def measured(self) -> dict[tuple[str, int], tuple[float, float]]:
        """(task, domain index) to (best, now) of the sets that were measured."""
        return {
            (self._spec.tasks[task], domain): (probe.best, probe.now)
            for (task, domain), probe in self._sets.items()
            if probe.best is not None and probe.now is not None
        }

    def erase(self, user_key: int) -> int:
        """Drop the rows of a user, frozen or not; returns how many. `best` stays as it was measured."""
        erased = 0
        for probe in self._sets.values():
            if probe.rows:
                rows = probe.whole()
                kept = rows.select(rows.user_key_B != user_key)
                erased += probe.rows - len(kept)
                probe.parts, probe.rows = [kept], len(kept)
        return erased

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {
            "probes": [
                [self._spec.tasks[task], domain, probe.frozen, probe.best, probe.now]
                for (task, domain), probe in self._sets.items()
            ]
        }
        for (task, domain), probe in self._sets.items():
            rows = probe.whole()
            for f in fields(rows):
                state[f"probe/{self._spec.tasks[task]}/{domain}/{f.name}"] = getattr(rows, f.name)
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        widths = batches.empty(self._spec)
        self._sets = {}
        for name, domain, frozen, best, now in state["probes"]:
            if name not in self._spec.tasks:
                raise StateError(f"probes: a set of task {name!r}, which this config does not have")
            rows = Batch(*(state[f"probe/{name}/{domain}/{f.name}"] for f in fields(Batch)))
            for f in fields(Batch):
                got, wanted = getattr(rows, f.name), getattr(widths, f.name)
                if got.shape[1:] != wanted.shape[1:] or got.dtype != wanted.dtype:
                    raise StateError(
                        f"probes: {f.name} of {name} is {got.dtype}{tuple(got.shape)} in the state, "
                        f"expected {wanted.dtype}(rows, {tuple(wanted.shape[1:])})"
                    )
            key = (self._spec.tasks.index(name), int(domain))
            self._sets[key] = ProbeSet([rows], len(rows), bool(frozen), best, now)


def _relabel(kept: Batch, rows: Batch, task: int) -> Batch:
    """Give rows that are kept already their newer label, in place; returns the rows that are new."""
    order_K = torch.argsort(kept.row_key_B)
    sorted_K = kept.row_key_B[order_K]
    place_B = torch.searchsorted(sorted_K, rows.row_key_B).clamp(max=len(sorted_K) - 1)
    known_B = sorted_K[place_B] == rows.row_key_B
    kept.label_BT[order_K[place_B[known_B]], task] = rows.label_BT[known_B, task]
    return rows.select(~known_B)
