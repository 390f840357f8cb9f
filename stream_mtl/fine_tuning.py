"""Per-task fine-tuning: one task's head is trained on, all else stays as it is, and the gate decides if it may serve.

Joint steps see each row a few times; a head is small and what it reads is fixed here, so its own rows can be gone
over until it has learned what they hold. Rows: the task's memory and its newest rows. The newest share of event time
is kept out of training; half of its users say when to stop, the other half judge, against the head that serves now.
A promoted head replaces the task's part of the served and of the learning model: a new head version. Shared parts,
embedding rows and other heads do not move, so other tasks' scores stay bit for bit.

Legend: B rows, C logits of all heads, L lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from stream_mtl import config
from stream_mtl.batch import Batch, concat, empty, list_index
from stream_mtl.errors import ConfigError
from stream_mtl.gate import Limits, Verdict, Window, decide
from stream_mtl.hashing import hash64, mix64
from stream_mtl.held import Held
from stream_mtl.joint_loss import exposed
from stream_mtl.keyed_store import KeyedStore
from stream_mtl.memory.base import Memory
from stream_mtl.memory.recency_ring import recency_ring
from stream_mtl.models.base import Model
from stream_mtl.optim import DenseOptimizer
from stream_mtl.prior_shift import inverse_chance
from stream_mtl.serving import Serving
from stream_mtl.state import State, nest, unnest

_SPLIT = 11  # salt of the hash that parts the held-out users


@dataclass(frozen=True, slots=True)
class FineTuned:
    """What came of one attempt."""

    task: str
    verdict: Verdict
    head_version: int  # in force now; 0 = the head as joint training made it
    epochs: int  # of the best head, 0 = the one it began with
    rows: int  # trained on
    judged: int  # rows that the verdict stands on

    def decision(self) -> dict[str, object]:
        """For the ledger."""
        return {
            "kind": "fine_tune",
            "task": self.task,
            "verdict": self.verdict.decision,
            "reasons": list(self.verdict.reasons),
            "head_version": self.head_version,
            "epochs": self.epochs,
            "rows": self.rows,
            "judged": self.judged,
        }


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one task with what its head reads of them."""

    batch: Batch
    shared: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.batch)

    def at(self, row_B: Tensor) -> Rows:
        return Rows(self.batch.select(row_B), tuple(part[row_B] for part in self.shared))


class FineTuning:
    """Keeps the newest rows of the tasks that are fine-tuned, and their head versions."""

    def __init__(
        self,
        settings: config.FineTune,
        serving: Serving,
        live: Model,
        held: Sequence[Held],
        memories: Sequence[Memory],
    ) -> None:
        """`live`: the model that learns on. Raises ConfigError for tasks that do not exist."""
        self._settings, self._serving, self._live = settings, serving, live
        self._held, self._memories = held, memories
        names = [one.task for one in held]
        unknown = [name for name in settings.tasks if name not in names]
        if unknown:
            raise ConfigError(
                f"fine_tune.tasks names {', '.join(unknown)}; the tasks are: {', '.join(names)}"
            )
        self._newest: dict[int, KeyedStore] = {
            names.index(name): recency_ring(held[names.index(name)], settings.recent)
            for name in settings.tasks
        }
        self.version_T = torch.zeros(len(held), dtype=torch.int64)

    def stores(self) -> list[KeyedStore]:
        """The newest rows, a store a task: to be erased from and repaired as memories are."""
        return list(self._newest.values())

    def forget(self, task: int) -> None:
        """A task that is retired."""
        if task in self._newest:
            self._newest[task] = recency_ring(self._held[task], self._settings.recent)

    def parameters(self, task: int) -> list[nn.Parameter]:
        """Of the learning model, what a promotion replaces."""
        return self._live.head_parameters(task)

    def tune(self, task: int, spread: float, limits: Limits, seed: int) -> FineTuned:
        """Train a head, judge it, and put it in where the gate promotes it. `spread`: of the task's labels."""
        name = self._held[task].task
        train, stopping, judging = self._rows(task)
        if not len(train) or not len(stopping) or not len(judging):
            verdict = Verdict("hold back", (f"{name}: too few rows to train and to judge",))
            return FineTuned(name, verdict, int(self.version_T[task]), 0, len(train), len(judging))
        head = self._serving.model.head_parameters(task)
        before = [p.detach().clone() for p in head]
        champion_B = self._loss(task, judging).detach()
        epochs = self._train(task, head, train, stopping, seed)
        challenger_B = self._loss(task, judging).detach()
        window = self._window(task, judging, champion_B, challenger_B, spread)
        verdict = decide({name: window}, name, limits, seed)
        with torch.no_grad():
            if verdict.decision == "promote":
                self.version_T[task] += 1
                before = [p.detach().clone() for p in head]
                _copy(before, self._live.head_parameters(task))
            else:
                _copy(before, head)
        return FineTuned(name, verdict, int(self.version_T[task]), epochs, len(train), len(judging))

    # ---- rows

    def _rows(self, task: int) -> tuple[Rows, Rows, Rows]:
        """To train on, to stop by, to judge by. Nothing of the held-out time is trained on, remembered or not."""
        newest = self._all(task, self._newest[task])
        if newest is None:
            nothing = Rows(empty(self._held[task].spec), ())
            return nothing, nothing, nothing
        time_B = newest.time_B.cpu().numpy()
        since = float(np.quantile(time_B, 1 - self._settings.held_out))
        tail = newest.select(newest.time_B >= since)
        parts = [newest]
        remembered = self._all(task, self._memories[task])
        if remembered is not None:
            known_B = torch.isin(remembered.list_key_B, newest.list_key_B)
            parts.insert(0, remembered.select(~known_B))
        train = concat([part.select(part.time_B < since) for part in parts])
        first_B = torch.from_numpy(mix64(tail.user_key_B.cpu().numpy(), _SPLIT) % 2 == 0)
        first_B = first_B.to(tail.user_key_B.device)
        return (
            self._read(train),
            self._read(tail.select(first_B)),
            self._read(tail.select(~first_B)),
        )

    def _all(self, task: int, memory: Memory) -> Batch | None:
        if not len(memory):
            return None
        sample = memory.take(np.arange(memory.units()))
        weight_B = sample.batch.weight_B * inverse_chance(sample, self._held[task])
        return replace(sample.batch, weight_B=weight_B)

    @torch.no_grad()
    def _read(self, batch: Batch) -> Rows:
        return Rows(batch, self._serving.model.shared(self._serving.embedded(batch), batch))

    # ---- training

    def _train(
        self, task: int, head: Sequence[nn.Parameter], train: Rows, stopping: Rows, seed: int
    ) -> int:
        """Leaves the best head in place; how many epochs it took."""
        settings = self._settings
        frozen = [p.requires_grad for p in head]
        for parameter in head:
            parameter.requires_grad_(True)
        optimizer = DenseOptimizer(
            [(str(n), p) for n, p in enumerate(head)],
            config.Optimizer(dense_lr=settings.rate, first_lr=settings.rate),
        )
        best, best_epoch = [p.detach().clone() for p in head], 0
        least = self._mean(task, stopping)
        for epoch in range(1, settings.epochs + 1):
            for rows in _batches(train, settings.batch_rows, hash64(f"{seed}/{epoch}")):
                weight_B = rows.batch.weight_B
                loss = (self._loss(task, rows) * weight_B).sum() / weight_B.sum()
                found = torch.autograd.grad(loss, head, allow_unused=True)
                optimizer.step(found, settings.rate)
            now = self._mean(task, stopping)
            if now < least:
                least, best, best_epoch = now, [p.detach().clone() for p in head], epoch
            elif not epoch - best_epoch < settings.patience:
                break
        for parameter, wanted in zip(head, frozen, strict=True):
            parameter.requires_grad_(wanted)
        with torch.no_grad():
            _copy(best, head)
        return best_epoch

    def _loss(self, task: int, rows: Rows) -> Tensor:
        """Of each row, as training sees it."""
        kinds, batch = self._serving.kinds, rows.batch
        logit_BC = self._serving.model.read(rows.shared, batch)
        return kinds[task].loss(
            exposed(logit_BC, batch, kinds),
            batch.label_BT[:, task],
            batch.mask_BT[:, task],
            batch.list_key_B,
            batch.offset_B != 0,
        )

    @torch.no_grad()
    def _mean(self, task: int, rows: Rows) -> float:
        weight_B = rows.batch.weight_B
        return float((self._loss(task, rows) * weight_B).sum() / weight_B.sum())

    @torch.no_grad()
    def _window(
        self, task: int, rows: Rows, champion_B: Tensor, challenger_B: Tensor, spread: float
    ) -> Window:
        kind, batch = self._serving.kinds[task], rows.batch
        rate = kind.spread == "entropy" and not kind.whole_lists
        logit_BC = exposed(self._serving.model.read(rows.shared, batch), batch, self._serving.kinds)
        return Window(
            user_N=batch.user_key_B.cpu().numpy(),
            label_N=batch.label_BT[:, task].double().cpu().numpy(),
            champion_N=champion_B.double().cpu().numpy(),
            challenger_N=challenger_B.double().cpu().numpy(),
            predicted=float(kind.score(logit_BC).sum()) if rate else None,
            scale=spread,
        )

    # ---- state

    def state(self) -> State:
        state: State = {"version_T": self.version_T} if self._newest else {}
        for task, store in self._newest.items():
            state |= nest(f"newest/{self._held[task].task}", store.state())
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        if self._newest:
            self.version_T.copy_(state["version_T"])
        for task, store in self._newest.items():
            store.restore(unnest(f"newest/{self._held[task].task}", state))


def _batches(rows: Rows, size: int, seed: int) -> Iterator[Rows]:
    """Once through all rows in about so many a time, lists whole and in random order."""
    index_B, lists = list_index(rows.batch.list_key_B)
    place_L = torch.empty(lists, dtype=torch.int64)
    place_L[torch.randperm(lists, generator=Generator().manual_seed(seed))] = torch.arange(lists)
    order_B = place_L[index_B.cpu()].argsort(stable=True).to(index_B.device)
    last_B = torch.diff(index_B[order_B], append=index_B.new_tensor([-1])) != 0
    start = 0
    for end in (last_B.nonzero().squeeze(1) + 1).tolist():
        if end - start >= size or end == len(rows):
            yield rows.at(order_B[start:end])
            start = end


def _copy(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    for old, new in zip(target, source, strict=True):
        old.copy_(new)
