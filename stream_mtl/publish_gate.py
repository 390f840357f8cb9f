"""Whose scores are published: the model that learns on, or the last one that was known to be good.

The newest model serves, and beside it a copy is kept of the last good one. Both say what they think of everything that
is shown, and both are judged by the same labels. A window is full with so many labels of the target task; then the
gate (`gate.decide`) speaks:

    serving, harm found           scores come from the copy until the live model has shown that it is better again
    serving, surely better        the live model is the new copy
    serving, neither              the copy stays, but no longer than `max_windows`: a year-old one is no refuge
    held back, surely better      the live model serves again, and is the new copy
    held back, else               it learns on, and is asked again on the next window

Learning never stops and nothing is lost by being held back. Every verdict is a decision in the ledger; the command
`promote` overrules the gate. Tasks whose labels are neither yes nor no are not judged.

Legend: B rows, C columns of all that is predicted, N judged rows of a task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stream_mtl import config
from stream_mtl.batch import Batch
from stream_mtl.errors import ConfigError
from stream_mtl.gate import Verdict, Window, decide, limits, usable_windows
from stream_mtl.hashing import hash64
from stream_mtl.lists import Lists
from stream_mtl.prequential import log_loss, logits
from stream_mtl.serving import Prediction, Serving
from stream_mtl.state import State, nest, unnest
from stream_mtl.tasks.base import TaskKind

Decision = dict[str, object]
Floats = npt.NDArray[np.float64]
COLUMNS = (  # of a judged row: log losses and probabilities of both models
    "user",
    "label",
    "champion",
    "challenger",
    "champion_predicted",
    "predicted",
)


class PublishGate:
    """Keeps the copy and the window that is filling; with `gate.publish` off neither, and the live model serves."""

    def __init__(
        self, settings: config.Gate, tasks: Sequence[str], live: Serving, seed: int
    ) -> None:
        """Raises ConfigError where the target is no task that can be judged."""
        self._settings, self._tasks, self._live, self._seed = settings, list(tasks), live, seed
        self.on, self.held, self._windows, self._age = settings.publish, False, 0, 0
        self._judged = {
            name: kind for name, kind in zip(tasks, live.kinds, strict=True) if is_judged(kind)
        }
        if self.on and settings.target not in self._judged:
            raise ConfigError(
                f"gate.target = {settings.target!r} is no task of yes and no;"
                f" use one of: {', '.join(self._judged)}"
            )
        self._champion = live.copy() if self.on else live
        self._rows: dict[str, list[Floats]] = {name: [] for name in self._judged}
        self._labels = 0  # of the target in this window

    # ---- what is published

    @property
    def published(self) -> Serving:
        return self._champion if self.held else self._live

    def predict(self, rows: Batch | Lists, ranking: bool = False) -> Prediction:
        """By the model that serves."""
        return self.published.predict(rows, ranking)

    def also(self, batch: Batch) -> Tensor | None:
        """What the copy says of rows that are shown, B x C; None with the gate off."""
        return self._champion.predict(batch).output_BC if self.on else None

    # ---- judging

    def observe(self, champion_BC: Tensor, live_BC: Tensor, batch: Batch) -> None:
        """Rows whose labels are known now, with what both models said when they were shown."""
        if not self.on:
            return
        said = {"champion": champion_BC, "challenger": live_BC}
        for name, kind in self._judged.items():
            task, column = self._tasks.index(name), kind.columns[0]
            known_B = batch.mask_BT[:, task].clone()
            for one_BC in said.values():
                known_B &= one_BC[:, column].isfinite()
            if not bool(known_B.any()):
                continue
            label_N = batch.label_BT[known_B, task].double().numpy()
            offset_N = batch.offset_B[known_B].double().numpy()
            columns = {"user": batch.user_key_B[known_B].numpy().view(np.float64), "label": label_N}
            for one, one_BC in said.items():
                logit_N = logits(one_BC[known_B, column].double().numpy()) + offset_N
                columns[one] = log_loss(logit_N, label_N > 0)
                probability = "predicted" if one == "challenger" else "champion_predicted"
                columns[probability] = 1 / (1 + np.exp(-logit_N))
            self._rows[name].append(np.stack([columns[name] for name in COLUMNS], 1))
            self._labels += len(label_N) if name == self._settings.target else 0

    def decide(self, forgetting: Callable[[], Mapping[str, float | None]]) -> list[Decision]:
        """The verdict of a window that has become full; none while it fills. `forgetting`: of every task, then."""
        if not self.on or self._labels < self._settings.window:
            return []
        lost = forgetting()
        windows = {
            name: self._window(name, lost[name]) for name in self._judged if self._rows[name]
        }
        usable = usable_windows(windows, self._settings)
        seed = hash64(f"publish gate/{self._seed}/{self._windows}")
        verdict = decide(
            usable, self._settings.target, limits(self._settings), seed, serving=not self.held
        )
        self._windows, self._age = self._windows + 1, self._age + 1
        self._clear()
        if verdict.decision == "roll back":
            self.held = True
        elif verdict.decision == "promote" or (
            not self.held and self._age >= self._settings.max_windows
        ):
            self.promote()
        return [self._told(verdict)]

    def promote(self) -> None:
        """The live model serves, and is the last good one."""
        self.held, self._age = False, 0
        if self.on:
            self._champion.take(self._live)
            self._clear()  # what was said of the open window was said by another copy

    def erase(self, user_key: int) -> None:
        """Forget the judged rows of a user."""
        key = np.array([user_key], np.int64).view(np.float64)
        for name, parts in self._rows.items():
            keep = [part[part[:, 0].view(np.int64) != key.view(np.int64)] for part in parts]
            self._rows[name] = [part for part in keep if len(part)]

    def forget_rows(self, row_U: Tensor) -> None:
        """Zero rows of the copy's table."""
        if self.on:
            self._champion.table_RH[row_U] = 0.0

    # ---- steps of the above

    def _window(self, name: str, forgetting: float | None) -> Window:
        rows = dict(zip(COLUMNS, np.concatenate(self._rows[name]).T, strict=True))
        return Window(
            np.ascontiguousarray(rows["user"]).view(np.int64),
            rows["label"],
            rows["champion"],
            rows["challenger"],
            float(rows["predicted"].sum()),
            forgetting,
            champion_predicted=float(rows["champion_predicted"].sum()),
        )

    def _clear(self) -> None:
        self._rows, self._labels = {name: [] for name in self._judged}, 0

    def _told(self, verdict: Verdict) -> Decision:
        return {
            "kind": "publish_gate",
            "verdict": verdict.decision,
            "held": self.held,
            "reasons": list(verdict.reasons),
        }

    # ---- state

    def state(self) -> State:
        if not self.on:
            return {}
        rows = {
            name: torch.from_numpy(np.concatenate(parts) if parts else np.zeros((0, len(COLUMNS))))
            for name, parts in self._rows.items()
        }
        return {
            "held": self.held,
            "windows": self._windows,
            "age": self._age,
            "labels": self._labels,
            **nest("rows", rows),
            **nest("champion", self._champion.state()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        if not self.on:
            return
        self.held, self._windows = bool(state["held"]), int(state["windows"])
        self._age, self._labels = int(state["age"]), int(state["labels"])
        for name in self._rows:
            rows = state[f"rows/{name}"].numpy().copy()
            self._rows[name] = [rows] if len(rows) else []
        self._champion.restore(unnest("champion", state))


def is_judged(kind: TaskKind) -> bool:
    """Whether a task's labels are yes or no, so that two predictions can be compared row by row."""
    return kind.spread == "entropy"
