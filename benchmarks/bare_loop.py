"""The least that the same learning and scoring could cost: a plain torch loop on ready batches.

Same network, task losses, optimisers, numbers of steps, fresh, rehearsed and scored rows, and rows a forward, as the run
it is compared with. Batches lie ready in memory, filled at random; rehearsed rows are picked at random
from preallocated tensors, into which fresh rows are written. There is no decoding, join, feature,
candidate, ranking, record, digest, broker or prediction at the moment of showing. Nothing of the
project is on its path but the network (`nn.Module`) and the loss functions of the tasks.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stream_mtl.batch import Batch, Spec, concat, empty
from stream_mtl.config import Config
from stream_mtl.layers import Parts
from stream_mtl.lookup import lookup
from stream_mtl.models import MODELS
from stream_mtl.restricted import hidden_fields, restricted
from stream_mtl.task_columns import task_kinds
from stream_mtl.wiring import wired

READY = 64  # batches that lie ready: more than the caches hold
FORWARD_ROWS = 1024  # of one forward when scoring, as the learner does it
IDS = (
    1_000,
    2_000,
    60,
    100,
    4,
    500,
    4,
    24,
    3,
)  # distinct values of the sparse fields, about as in `steady`


@dataclass(frozen=True)
class Work:
    """What a timed part of a run did."""

    steps: int
    fresh: int  # rows, over all steps
    rehearsed: int
    scored: Sequence[int]  # rows of each cut


@dataclass(frozen=True)
class Cost:
    wall_s: float
    cpu_s: float


class BareLoop:
    """One network with its optimisers and memories, and batches that lie ready."""

    def __init__(self, spec: Spec, config: Config) -> None:
        torch.set_num_threads(config.threads)
        self._config, self._draws = config, torch.Generator().manual_seed(1)
        self._kinds = task_kinds(spec, config)
        parts = Parts(spec, config.model, self._kinds, self._draws)
        hidden = [hidden_fields(spec, name, config.tasks[name].fields) for name in spec.tasks]
        self._model = restricted(wired(MODELS[config.model.name](parts), parts), parts, hidden)
        self._lookup = lookup(spec, config.model)
        assert isinstance(self._model, nn.Module)
        self._table_RH = 0.05 * torch.randn(
            spec.table_rows, config.model.embedding_dim, generator=self._draws
        )
        self._sum_R = torch.zeros(spec.table_rows)
        self._adamw = torch.optim.AdamW(
            self._model.parameters(),
            lr=config.optimizer.dense_lr,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
        self._spec = spec
        rows = config.learner.batch_rows
        self._ready = [self._batch(rows) for _ in range(READY)]
        self._candidates = [self._batch(FORWARD_ROWS) for _ in range(READY)]
        self._memories = [self._batch(config.memory.rows) for _ in spec.tasks]
        self._logits = [torch.zeros(config.memory.rows, len(spec.tasks)) for _ in spec.tasks]

    def run(self, work: Work) -> Cost:
        """Do the work; the first few steps are done before the clock runs."""
        for number in range(3):
            self._step(number, self._config.learner.batch_rows, self._config.learner.batch_rows)
            self._score(FORWARD_ROWS)
        began, cpu = time.perf_counter(), time.process_time()
        fresh = work.fresh // max(work.steps, 1)
        rehearsed = work.rehearsed // max(work.steps, 1)
        for number in range(work.steps):
            self._step(number, fresh, rehearsed)
        for rows in work.scored:
            self._score(rows)
        return Cost(time.perf_counter() - began, time.process_time() - cpu)

    def _batch(self, rows: int) -> Batch:
        spec, draws = self._spec, self._draws
        batch = empty(spec, rows)
        sparse = [
            torch.randint(0, n, (rows,), generator=draws) * 7919 + f for f, n in enumerate(IDS)
        ]
        return replace(
            batch,
            sparse_BF=torch.stack(sparse, 1) % spec.table_rows,
            dense_BD=torch.randn(rows, len(spec.dense_fields), generator=draws),
            title_BE=torch.randn(rows, spec.text_dim, generator=draws).half() / 20,
            query_BE=torch.randn(rows, spec.text_dim, generator=draws).half() / 20,
            position_B=torch.randint(0, 10, (rows,), generator=draws),
            label_BT=(torch.rand(rows, len(spec.tasks), generator=draws) < 0.1).float(),
            mask_BT=torch.ones(rows, len(spec.tasks), dtype=torch.bool),
            list_key_B=torch.arange(rows) // 10,
        )

    def _step(self, number: int, fresh_rows: int, rehearsed_rows: int) -> None:
        fresh = self._ready[number % READY].rows(0, fresh_rows)
        share = rehearsed_rows // len(self._memories)
        picks = [torch.randint(0, len(m), (share,), generator=self._draws) for m in self._memories]
        rehearsed = [m.select(pick) for m, pick in zip(self._memories, picks, strict=True)]
        batch = concat([fresh, *rehearsed])
        row_U, inverse_BF = torch.unique(self._lookup(batch.sparse_BF), return_inverse=True)
        touched_UH = self._table_RH[row_U].requires_grad_()
        logit_BT = self._model(F.embedding(inverse_BF, touched_UH), batch)
        no_B = torch.zeros(len(batch), dtype=torch.bool)
        losses = [
            kind.loss(
                logit_BT, batch.label_BT[:, t], batch.mask_BT[:, t], batch.list_key_B, no_B
            ).mean()
            for t, kind in enumerate(self._kinds)
        ]
        loss = torch.stack(losses).mean()
        old = torch.cat([kept[pick] for kept, pick in zip(self._logits, picks, strict=True)])
        loss = loss + 0.5 * (logit_BT[len(fresh) :] - old).square().mean()
        self._adamw.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), self._config.optimizer.clip_norm)
        self._adamw.step()
        assert touched_UH.grad is not None
        self._adagrad(row_U, touched_UH.grad)
        self._keep(number, fresh, logit_BT.detach()[: len(fresh)])

    @torch.no_grad()
    def _adagrad(self, row_U: Tensor, gradient_UH: Tensor) -> None:
        sum_U = self._sum_R[row_U] + gradient_UH.square().mean(1)
        self._sum_R[row_U] = sum_U
        rate = self._config.optimizer.table_lr
        self._table_RH[row_U] -= rate * gradient_UH / (sum_U.sqrt() + 1e-8).unsqueeze(1)

    @torch.no_grad()
    def _keep(self, number: int, fresh: Batch, logit_BT: Tensor) -> None:
        """A third of the fresh rows into each memory: what a full reservoir takes in is less than all."""
        share = len(fresh) // len(self._memories)
        for task, memory in enumerate(self._memories):
            start = number * share % (len(memory) - share)
            part = fresh.rows(task * share, (task + 1) * share)
            for f in fields(Batch):
                getattr(memory, f.name)[start : start + share] = getattr(part, f.name)
            self._logits[task][start : start + share] = logit_BT[task * share : (task + 1) * share]

    @torch.inference_mode()
    def _score(self, rows: int) -> None:
        for number, start in enumerate(range(0, rows, FORWARD_ROWS)):
            batch = self._candidates[number % READY].rows(0, min(FORWARD_ROWS, rows - start))
            row_BL = self._lookup(batch.sparse_BF)
            self._model(F.embedding(row_BL, self._table_RH), batch).sigmoid()
