"""Serving's view of a model: predictions without the sampling offset, changing nothing.

Legend: B rows, F sparse fields, H embedding width, R table rows, T tasks, C logits of all heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_mtl import sides
from stream_mtl.batch import Batch, Spec
from stream_mtl.lists import Lists
from stream_mtl.lookup import Lookup
from stream_mtl.models.base import Model
from stream_mtl.optim import copy_tensors
from stream_mtl.state import State, nest, unnest
from stream_mtl.tasks.base import TaskKind
from stream_mtl.trust import Trust

_ROWS = 1024  # of one forward: the experts' activations then stay in the CPU's cache


@dataclass(frozen=True, slots=True)
class Prediction:
    """Of every row and task. A funnel task's probability is that of the whole way."""

    prob_BT: Tensor  # one number a task: a probability, of a regression the value in its unit
    logit_BC: Tensor
    output_BC: Tensor  # all of it: of a multi-class task the probability of every class
    extra: dict[str, Tensor]  # <task>_given_<after>, shape B, of every funnel task


@dataclass(frozen=True, slots=True)
class Serving:
    """One model with its table, as it is read. Whoever owns them may move them between two calls."""

    spec: Spec
    kinds: Sequence[TaskKind]
    model: Model
    table_RH: Tensor
    lookup: Lookup
    trust: Trust
    given: Mapping[str, int]  # scores beside those of the tasks, and the column of each

    @torch.inference_mode()
    def predict(self, rows: Batch | Lists, ranking: bool = False) -> Prediction:
        """`ranking`: for a list to be published, where a model has only the say that it has earned (`trust`)."""
        rows = rows.to(self.table_RH.device)
        logit_BC = self._logits(rows)
        if ranking:
            logit_BC = self.trust.serve(logit_BC, rows.pairs if isinstance(rows, Lists) else rows)
        prob_BT = torch.stack([kind.score(logit_BC) for kind in self.kinds], 1)
        output_BC = prob_BT
        if logit_BC.shape != prob_BT.shape:
            output_BC = torch.cat([kind.outputs(logit_BC) for kind in self.kinds], 1)
        extra = {name: logit_BC[:, column].sigmoid() for name, column in self.given.items()}
        return Prediction(prob_BT, logit_BC, output_BC, extra)

    def _logits(self, rows: Batch | Lists) -> Tensor:
        if isinstance(rows, Lists):
            if isinstance(self.model, sides.Sided) and self.model.inputs.is_plain:
                return sides.logits(self.model, self.table_RH, rows, _ROWS)
            rows = rows.whole(self.spec)
        pieces = [rows.rows(n, n + _ROWS) for n in range(0, len(rows), _ROWS)] or [rows]
        return torch.cat([self.model(self.embedded(piece), piece) for piece in pieces])

    def copy(self) -> Serving:
        """One that does not move with this one."""
        return replace(
            self,
            model=deepcopy(self.model),
            table_RH=self.table_RH.clone(),
            trust=deepcopy(self.trust),
        )

    def take(self, other: Serving) -> None:
        """Say from now on what the other says now."""
        self.restore(other.state())

    def state(self) -> State:
        """What `copy` copies; aliases live memory."""
        return {
            **nest("model", {name: p.detach() for name, p in self.model.named_parameters()}),
            **nest("trust", self.trust.state()),
            "table_RH": self.table_RH,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        copy_tensors(self.state(), state, "served model")
        self.trust.restore(unnest("trust", state))

    def embedded(self, batch: Batch) -> Tensor:
        """Looked-up embeddings, B x F x H."""
        return F.embedding(self.lookup(batch.sparse_BF), self.table_RH)
