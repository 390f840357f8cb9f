"""Which of the rows of one list: softmax inside the list, with a little BCE for calibration."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_mtl.list_softmax import list_softmax_loss
from stream_mtl.tasks.base import Place, Settings, Spread

_CALIBRATION = 0.2  # the softmax leaves a list's level open; a small BCE settles it


class Listwise:
    """Softmax + 0.2 BCE; a list without a positive contributes its BCE alone."""

    width = 1
    helpers = 0
    whole_lists = True
    has_prior = True
    base_rate = 0.05
    spread: Spread = "entropy"

    def __init__(self, place: Place, settings: Settings, after: Sequence[Place] = ()) -> None:
        self.tasks, self.columns = (place.task,), (place.column,)
        self._own = place.column

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
        point_B = F.binary_cross_entropy_with_logits(logit_B, known_B, reduction="none")
        list_B = list_softmax_loss(logit_B, known_B, mask_B, list_key_B)
        return torch.where(mask_B, list_B + _CALIBRATION * point_B, 0.0)

    def score(self, logit_BC: Tensor) -> Tensor:
        return F.logsigmoid(logit_BC[:, self._own]).exp()

    def outputs(self, logit_BC: Tensor) -> Tensor:
        return self.score(logit_BC).unsqueeze(1)
