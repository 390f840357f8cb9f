"""A yes or no for every row: cross-entropy on log-odds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_mtl.list_softmax import list_softmax_loss
from stream_mtl.tasks.base import Place, Settings, Spread


class Binary:
    """BCE (with `smoothing` s against labels s/2 and 1 - s/2), and with `listwise` > 0 that many parts of a softmax over a click and its drawn negatives.

    Where a shop logs what it showed, BCE alone: the softmax sharpens the log-odds inside lists with a click
    and would make all of them too high (by a quarter, on the simulated shop).
    """

    width = 1
    helpers = 0
    has_prior = True
    base_rate = 0.05
    spread: Spread = "entropy"

    def __init__(self, place: Place, settings: Settings, after: Sequence[Place] = ()) -> None:
        self.tasks, self.columns = (place.task,), (place.column,)
        self.whole_lists = settings.listwise > 0
        self._own, self._listwise = place.column, settings.listwise
        self._smoothing = settings.smoothing

    def loss(
        self,
        logit_BC: Tensor,
        label_B: Tensor,
        mask_B: Tensor,
        list_key_B: Tensor,
        drawn_B: Tensor,
    ) -> Tensor:
        logit_B = logit_BC[:, self._own]
        known_B = label_B.masked_fill(~mask_B, 0.0)
        target_B = known_B
        if self._smoothing:
            target_B = known_B * (1 - self._smoothing) + self._smoothing / 2
        loss_B = F.binary_cross_entropy_with_logits(logit_B, target_B, reduction="none")
        if self._listwise and bool(drawn_B.any()):
            loss_B = loss_B + self._listwise * list_softmax_loss(
                logit_B, known_B, mask_B & drawn_B, list_key_B
            )
        return torch.where(mask_B, loss_B, 0.0)

    def score(self, logit_BC: Tensor) -> Tensor:
        return F.logsigmoid(logit_BC[:, self._own]).exp()

    def outputs(self, logit_BC: Tensor) -> Tensor:
        return self.score(logit_BC).unsqueeze(1)
