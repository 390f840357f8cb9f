"""Champion against challenger on the same cuts: two folds, one log, and the gate's verdict.

Each says of every shown row what it thinks at the moment of showing, and both are judged when the row's labels come: rows
that only one of them has (another join, another start) are left out. `gate.decide` then speaks as it does of the
models of one worker.

Legend: B rows, N judged rows of a task.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from stream_mtl import config
from stream_mtl.batch import Batch
from stream_mtl.errors import ConfigError
from stream_mtl.gate import Verdict, Window, decide, limits, usable_windows
from stream_mtl.prequential import log_loss, logits
from stream_mtl.publish_gate import is_judged
from stream_mtl.tasks.base import TaskKind

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Side(Protocol):
    """A fold that has just taken a cut."""

    @property
    def judged(self) -> tuple[Tensor, Batch] | None: ...

    @property
    def task_kinds(self) -> dict[str, TaskKind]: ...


@dataclass(slots=True)
class _Rows:
    """One task's rows, a list entry a cut."""

    user: list[Ints] = field(default_factory=list)
    label: list[Floats] = field(default_factory=list)
    champion: list[Floats] = field(default_factory=list)  # logits
    challenger: list[Floats] = field(default_factory=list)


class Contest:
    """Feed it after every cut that both folded; ask for the verdict at the end."""

    def __init__(self, settings: config.Gate) -> None:
        self._settings = settings
        self._rows: dict[str, _Rows] = {}

    def feed(self, champion: Side, challenger: Side) -> None:
        if champion.judged is None or challenger.judged is None:
            return
        for name, kind in champion.task_kinds.items():
            other = challenger.task_kinds.get(name)
            if other is None or not (is_judged(kind) and is_judged(other)):
                continue
            ours, theirs = (
                _said(side, name, one) for side, one in ((champion, kind), (challenger, other))
            )
            _, at, to = np.intersect1d(ours.key_N, theirs.key_N, return_indices=True)
            same_N = ours.label_N[at] == theirs.label_N[to]
            at, to = at[same_N], to[same_N]
            rows = self._rows.setdefault(name, _Rows())
            rows.user.append(ours.user_N[at])
            rows.label.append(ours.label_N[at])
            rows.champion.append(ours.logit_N[at])
            rows.challenger.append(theirs.logit_N[to])

    def labels(self) -> dict[str, int]:
        """Judged rows of every task."""
        return {name: sum(len(part) for part in rows.label) for name, rows in self._rows.items()}

    def verdict(self, seed: int = 0) -> Verdict:
        """Raises ConfigError when the gate's target was not judged at all."""
        windows = {
            name: _window(rows) for name, rows in self._rows.items() if any(map(len, rows.label))
        }
        target = self._settings.target
        if target not in windows:
            raise ConfigError(
                f"gate.target = {target!r} has no row that both models judged; the tasks that have: "
                f"{', '.join(windows) or 'none'}"
            )
        return decide(usable_windows(windows, self._settings), target, limits(self._settings), seed)


@dataclass(frozen=True, slots=True)
class _Said:
    key_N: Ints
    user_N: Ints
    label_N: Floats
    logit_N: Floats


def _said(side: Side, name: str, kind: TaskKind) -> _Said:
    """Rows of a task whose label is known and of which something was said."""
    assert side.judged is not None
    served_BC, batch = side.judged
    task, column = list(side.task_kinds).index(name), kind.columns[0]
    known_B = batch.mask_BT[:, task] & served_BC[:, column].isfinite()
    logit_N = logits(served_BC[known_B, column].double().numpy())
    return _Said(
        batch.row_key_B[known_B].numpy(),
        batch.user_key_B[known_B].numpy(),
        batch.label_BT[known_B, task].double().numpy(),
        logit_N + batch.offset_B[known_B].double().numpy(),
    )


def _window(rows: _Rows) -> Window:
    label_N = np.concatenate(rows.label)
    champion_N, challenger_N = np.concatenate(rows.champion), np.concatenate(rows.challenger)
    return Window(
        np.concatenate(rows.user),
        label_N,
        log_loss(champion_N, label_N > 0),
        log_loss(challenger_N, label_N > 0),
        float((1 / (1 + np.exp(-challenger_N))).sum()),
        champion_predicted=float((1 / (1 + np.exp(-champion_N))).sum()),
    )
