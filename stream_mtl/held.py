"""Whose rows a memory holds, and what comes out of it.

Legend: K classes of the task's labels, R sampled rows, S stored logit columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stream_mtl.batch import Batch, Spec

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Held:
    """Whose rows a memory holds."""

    spec: Spec
    task: str
    columns: tuple[int, ...]  # logits to store, all that the task's loss reads
    whole_lists: bool
    seed: int
    device: torch.device
    edges: tuple[float, ...] = (0.5,)  # ascending; K - 1 of them part the labels into K classes
    recent: float = 0.25  # two_store: share of what is newest
    user_share: float = 1.0  # of the units that there is room for, one user's at most

    @property
    def own(self) -> int:
        """The task's column of labels and masks."""
        return self.spec.tasks.index(self.task)

    def classes(self, label_R: Tensor) -> Ints:
        """The class of each label, in [0, K)."""
        edges = np.array(self.edges)
        return np.searchsorted(edges, label_R.cpu().numpy(), side="right").astype(np.int64)


@dataclass(frozen=True, slots=True)
class Sample:
    """Remembered rows: only the own task's label is unmasked.

    Rows of some classes may be likelier to be in it than others': `log_chance_K` says by how much, scaled so that
    the mean of exp(-log_chance) over a sample is 1; None where all are alike. `prior_shift` undoes it.
    """

    batch: Batch
    logit_RS: Tensor  # as they were when the row was stored, clamped to +-10
    version_R: Tensor  # of the model that gave them
    log_chance_K: Tensor | None = None

    def select(self, keep_R: Tensor) -> Sample:
        """The rows of a boolean mask; not for lists that must stay whole."""
        return Sample(
            self.batch.select(keep_R),
            self.logit_RS[keep_R],
            self.version_R[keep_R],
            self.log_chance_K,
        )
