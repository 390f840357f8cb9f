"""What a model promises.

Legend: B rows, F sparse fields, H embedding width (of an expert: its outputs), E experts, C logits of all heads, task
after task.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from stream_mtl.batch import Batch


@dataclass(frozen=True, slots=True)
class Mixture:
    """What one gate made of its experts: for `health`."""

    gate: str  # a task's name; `<level>/<task>` below the last level
    experts: tuple[str, ...]  # distinct names; one expert has the same in every mixture
    expert_BEH: Tensor
    gate_BE: Tensor  # sums to 1


class Model(Protocol):
    """Logits of all tasks from looked-up embeddings and a batch.

    The embedding table is not the model's: the learner looks rows up, so that only touched rows need
    gradients. A model is an `nn.Module` called as `model(embedding_BFH, batch) -> logit_BC`; a row's
    logits do not depend on the other rows. Funnel columns hold the conditional step's log-odds.

    The call is `read(shared(embedding_BFH, batch), batch)`: what all tasks share ends where their own parts
    begin, so that a balancer can look at the tasks' gradients there.
    """

    def __call__(self, embedding_BFH: Tensor, batch: Batch) -> Tensor: ...

    def shared(self, embedding_BFH: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        """Everything that the tasks' own parts read, each of shape B x any: made by shared parameters alone."""
        ...

    def read(self, shared: Sequence[Tensor], batch: Batch) -> Tensor:
        """Logits B x C from what `shared` gave; uses parameters of heads alone."""
        ...

    def mixtures(self, embedding_BFH: Tensor, batch: Batch) -> list[Mixture]:
        """Of every gate over experts; of a model without them nothing."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def shared_parameters(self) -> list[nn.Parameter]:
        """Those that every task moves; with all heads they partition the parameters."""
        ...

    def head_parameters(self, task: int) -> list[nn.Parameter]:
        """Those of one task's head: they do not move in a step without labels for it."""
        ...
