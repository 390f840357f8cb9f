"""Prequential evaluation with label delay, and the probe sets.

What was served is kept until the label arrives and is scored then, before anything learns from it.
Legend: B rows, T tasks, C columns of what is served, N (row, task) pairs whose label is known.

Rows of sampled lists carry an offset (log of the inverse sampling rate). Log loss, normalised entropy and
calibration (also its error, ECE) compare on the scale of the sampled data: sigmoid(logit(served) + offset).
AUC, GAUC and NDCG rank by what was served, since an offset that differs between the rows of a list would rank by itself. A user's rows in
GAUC are those that matured within one block of rows.

The newest rows are kept whole, so that a window of them is judged exactly (all but AUC's buckets) and by the same code.

Every (row, task) pair that is observed counts once: give corrections of earlier labels to the memories,
not to `observe`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stream_mtl import config as settings
from stream_mtl.batch import Batch, Spec
from stream_mtl.cut import DriftAlarm
from stream_mtl.drift_watch import DriftWatch
from stream_mtl.errors import StateError
from stream_mtl.hashing import mix64
from stream_mtl.measures.base import judged
from stream_mtl.measures.ece import Ece
from stream_mtl.measures.gauc import Gauc
from stream_mtl.newest_rows import NewestRows
from stream_mtl.prequential import (
    GAUC,
    GROUPED,
    LABELS,
    LISTS,
    NDCG,
    POSITIVES,
    Floats,
    Ints,
    Sums,
    logits,
    ndcg,
)
from stream_mtl.probes import Probes, is_probe
from stream_mtl.state import nest, unnest
from stream_mtl.tasks.base import TaskKind
from stream_mtl.value_sums import ValueSums

FADE_ROWS = 512  # rows of a block, after which the faded sums lose `fading` once
WAITING = ("served_BC", "label_BT", "mask_BT", "offset_B", "list_key_B", "row_key_B", "user_key_B")

ECE, GROUPED_AUC = Ece(), Gauc()

Quality = dict[str, float | int | None]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums of all tasks: `rates` of those with a yes or no, `values` of the others by their place."""

    rates: Sums
    values: dict[int, ValueSums]

    def merge(self, other: Totals, fading: float = 1.0) -> None:
        self.rates.merge(other.rates, fading)
        for task, sums in self.values.items():
            sums.merge(other.values[task], fading)

    def since(self, earlier: Totals) -> Totals:
        """What came after `earlier`, which is left as it is."""
        between = deepcopy(earlier)
        between.merge(self, -1.0)
        return between


class Evaluation:
    """Metrics per task over the whole lineage and faded; `listwise` names the tasks that get an NDCG."""

    def __init__(
        self,
        config: settings.Evaluation,
        spec: Spec,
        listwise: Collection[str] = (),
        drift: settings.Drift | None = None,
        kinds: Sequence[TaskKind] | None = None,
    ) -> None:
        """`kinds` of the tasks, where one is more than a yes or no with one column."""
        self._config, self._spec = config, spec
        self._columns = _columns(spec, kinds)
        self._values = {
            task: (kind.spread, kind.width)
            for task, kind in enumerate(kinds or ())
            if kind.spread != "entropy"
        }
        self._listwise = tuple(i for i, task in enumerate(spec.tasks) if task in listwise)
        self._whole, self._faded = self._none(), self._none()
        self._waiting: list[tuple[Tensor, ...]] = []  # in the order of WAITING
        self._waiting_rows = 0
        self._newest = NewestRows(config.window_rows, WAITING)
        self._windowed: dict[str, Quality] | None = None  # of `_newest` as it is
        self._probes = Probes(config, spec, kinds)
        self._drift = DriftWatch(drift or settings.Drift(on=False), spec.tasks)

    def _none(self) -> Totals:
        values = {task: ValueSums(*kind) for task, kind in self._values.items()}
        return Totals(Sums(len(self._spec.tasks)), values)

    def observe(self, served_BC: Tensor, batch: Batch) -> None:
        """Score the predictions made at serving against the labels that are known now.

        Rows wait for a block of FADE_ROWS, so that a cut of one event costs next to nothing.
        """
        if not len(batch):
            return
        served_BC = served_BC.detach().cpu()
        rows = (served_BC, *(getattr(batch, name) for name in WAITING[1:]))
        self._newest.add(rows)
        self._windowed = None
        self._waiting.append(rows)
        self._waiting_rows += len(batch)
        if self._waiting_rows >= FADE_ROWS:
            block = self._block(watched=True)
            self._whole.merge(block)
            self._faded.merge(block, self._config.fading)
            self._waiting, self._waiting_rows = [], 0

    def _block(self, watched: bool = False) -> Totals:
        """The sums of the rows that wait; `watched`: their turn with the drift detectors too."""
        return self._sums(self._one_waiting(), watched) if self._waiting else self._none()

    def _sums(self, columns: tuple[Tensor, ...], watched: bool = False) -> Totals:
        """Of rows in the order of WAITING."""
        totals = self._none()
        sums = totals.rates
        served_BC, label_BT, mask_BT, offset_B, list_key_B, row_key_B, user_key_B = (
            column.numpy() for column in columns
        )
        for task, value_sums in totals.values.items():
            known_B = mask_BT[:, task] & np.isfinite(served_BC[:, self._columns[task].start])
            said_NW = served_BC[known_B, self._columns[task]].astype(np.float64)
            value_sums.add(said_NW, label_BT[known_B, task].astype(np.float64))
        served_BT = served_BC[:, [columns.start for columns in self._columns]]
        known_BT = mask_BT & np.isfinite(served_BT)  # NaN: never served
        known_BT[:, list(totals.values)] = False
        row_N, task_N = known_BT.nonzero()
        served_N = served_BT[row_N, task_N].astype(np.float64)
        label_N = label_BT[row_N, task_N].astype(np.float64)
        logit_N = logits(served_N)
        corrected_N = logit_N + offset_B[row_N]
        sums.add(task_N, logit_N, corrected_N, label_N)
        if watched:
            self._watch(task_N, corrected_N, label_N)
        for task in range(len(self._spec.tasks)):
            of_N = task_N == task
            _add_measures(
                sums, task, user_key_B[row_N[of_N]], logit_N[of_N], corrected_N[of_N], label_N[of_N]
            )
        run_B, tie_B = _runs(list_key_B), mix64(row_key_B)
        for task in self._listwise:
            of_N = task_N == task
            row_M = row_N[of_N]
            sums.total_TK[task, (NDCG, LISTS)] += ndcg(
                run_B[row_M], served_N[of_N], label_N[of_N], tie_B[row_M]
            )
        return totals

    def _watch(self, task_N: Ints, logit_N: Floats, label_N: Floats) -> None:
        for task, name in enumerate(self._spec.tasks):
            of_N = task_N == task
            self._drift.observe(name, logit_N[of_N], label_N[of_N])

    def take_drifts(self) -> tuple[DriftAlarm, ...]:
        """Alarms since the last call: to be called at every cut."""
        return self._drift.take()

    def forgetting(self) -> dict[str, float | None]:
        """Of every task; None before its probes were measured."""
        return {name: self._probes.forgetting(t) for t, name in enumerate(self._spec.tasks)}

    def held_out(self) -> Batch:
        """Some probe rows of every task and domain."""
        return self._probes.some()

    def drifted(self) -> tuple[str, ...]:
        """Tasks that had an alarm lately (`drift.recent` labels)."""
        return self._drift.drifted()

    def is_probe(self, list_key_B: Tensor) -> Tensor:
        """Mask of the rows that are held out of training."""
        return is_probe(list_key_B, self._config.probe_share)

    def add_probes(self, batch: Batch, served_BC: Tensor) -> None:
        """Keep held-out rows, up to `probe_rows` a task, domain and span, and what was served of them."""
        self._probes.add(batch, served_BC)

    def evaluate_probes(self, predict: Callable[[Batch], Tensor]) -> None:
        """Measure the probe sets with the model of now; `predict` gives what is served, B x C."""
        self._probes.evaluate(predict)

    def probes(self) -> dict[tuple[str, int], tuple[float, float]]:
        """(task, domain index) to (best AUC, AUC now)."""
        return self._probes.measured()

    def probe_sets(self, task: str) -> list[dict[str, Any]]:
        """What is known of each of a task's probe sets (`Probes.told`)."""
        return self._probes.told(self._spec.tasks.index(task))

    def erase(self, user_key: int) -> int:
        """Drop the probe rows of a user; the sums hold nothing of anyone.

        Rows that wait for their block are still counted, but no longer as this user's.
        """
        if self._waiting:
            self._waiting = [_nobodys(self._one_waiting(), user_key)]
        newest = self._newest.columns()
        if newest is not None:
            self._newest.replace(_nobodys(newest, user_key))
        return self._probes.erase(user_key)

    def _one_waiting(self) -> tuple[Tensor, ...]:
        return tuple(torch.cat(column) for column in zip(*self._waiting, strict=True))

    def summary(self) -> dict[str, Quality]:
        """Per task, over the whole lineage; None where a value is not defined yet."""
        return self.qualities(self.totals())

    def faded(self) -> dict[str, Quality]:
        """The same with old rows fading away; counts are effective, not whole, numbers."""
        totals = self._none()
        totals.merge(self._faded)
        if self._waiting:
            totals.merge(self._block(), self._config.fading)
        return self.qualities(totals)

    def windowed(self) -> dict[str, Quality]:
        """The same of the newest `window_rows` rows, those that wait for their block included."""
        if self._windowed is None:
            newest = self._newest.columns()
            self._windowed = self.qualities(self._none() if newest is None else self._sums(newest))
        return self._windowed

    def totals(self) -> Totals:
        """The sums of all rows up to now, a copy: two of them and `since` give those of a span.

        All but GAUC (and an NDCG list cut by the block's end) is then exact: rows that wait for their block
        count as a block of their own.
        """
        totals = self._none()
        totals.merge(self._whole)
        totals.merge(self._block())
        return totals

    def qualities(self, totals: Totals) -> dict[str, Quality]:
        """What `summary` says, of these sums; forgetting is always that of now."""
        return {name: self._quality(totals, i) for i, name in enumerate(self._spec.tasks)}

    def _quality(self, totals: Totals, task: int) -> Quality:
        sums = totals.rates
        quality: Quality = {
            "labels": round(sums.total_TK[task, LABELS]),
            "positives": round(sums.total_TK[task, POSITIVES]),
            "auc": sums.auc(task),
            "normalized_entropy": sums.normalized_entropy(task),
            "calibration": sums.calibration(task),
            "ece": ECE.value(sums.calibration_T3H[task]),
            "gauc": GROUPED_AUC.value(sums.total_TK[task, (GAUC, GROUPED)]),
            "forgetting": self._probes.forgetting(task),
            "backward_transfer": self._probes.backward(task),
            "forward_transfer": self._probes.forward(task),
            "ndcg": sums.ndcg(task),
            "rmse": None,
            "macro_f1": None,
        }
        if task in totals.values:
            quality |= {"positives": None, **totals.values[task].quality()}
        return quality

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"tasks": list(self._spec.tasks), "waiting": self._waiting_rows}
        for name, totals in self._totals().items():
            rates = totals.rates
            state |= {f"{name}/{n}": torch.from_numpy(getattr(rates, n)) for n in Sums.NAMES}
            for task, value_sums in totals.values.items():
                state[f"{name}/values/{self._spec.tasks[task]}"] = value_sums.state()
        if self._waiting:
            self._waiting = [self._one_waiting()]
            state |= {f"waiting/{n}": t for n, t in zip(WAITING, self._waiting[0], strict=True)}
        state |= nest("newest", self._newest.state())
        return state | self._probes.state() | nest("drift", self._drift.state())

    def restore(self, state: Mapping[str, Any]) -> None:
        if list(state["tasks"]) != list(self._spec.tasks):
            raise StateError(
                f"evaluation: the state is of tasks {state['tasks']}, this config has "
                f"{list(self._spec.tasks)}: start a new lineage"
            )
        self._waiting_rows = int(state["waiting"])
        rows = tuple(state[f"waiting/{name}"] for name in WAITING) if self._waiting_rows else ()
        self._waiting = [rows] if rows else []
        for name, totals in self._totals().items():
            for n in Sums.NAMES:
                setattr(totals.rates, n, state[f"{name}/{n}"].numpy().copy())
            for task, value_sums in totals.values.items():
                value_sums.restore(state[f"{name}/values/{self._spec.tasks[task]}"])
        self._newest.restore(unnest("newest", state))
        self._windowed = None
        self._probes.restore(state)
        self._drift.restore(unnest("drift", state))

    def _totals(self) -> dict[str, Totals]:
        return {"whole": self._whole, "faded": self._faded}


def _columns(spec: Spec, kinds: Sequence[TaskKind] | None) -> list[slice]:
    """Of every task, its columns in what is served."""
    if kinds is None:
        return [slice(task, task + 1) for task in range(len(spec.tasks))]
    return [slice(kind.columns[0], kind.columns[0] + kind.width) for kind in kinds]


def _nobodys(columns: tuple[Tensor, ...], user_key: int) -> tuple[Tensor, ...]:
    """Rows of a user that are no longer this user's: each list is its own."""
    *others, user_key_B = columns
    list_key_B = columns[WAITING.index("list_key_B")]
    return (*others, torch.where(user_key_B == user_key, list_key_B, user_key_B))


def _add_measures(
    sums: Sums, task: int, user_N: Ints, logit_N: Floats, corrected_N: Floats, label_N: Floats
) -> None:
    """Of one task: a user's rows are ranked by what was served, within the block of rows that waited."""
    grouped = GROUPED_AUC.sums(judged(logit_N, label_N, user_N))
    sums.total_TK[task, (GAUC, GROUPED)] += grouped
    sums.calibration_T3H[task] += ECE.sums(judged(1 / (1 + np.exp(-corrected_N)), label_N))


def _runs(list_key_B: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Number of the run of equal keys that each row is in, ascending."""
    return np.concatenate(([0], np.cumsum(list_key_B[1:] != list_key_B[:-1]))).astype(np.int64)
