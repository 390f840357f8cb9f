"""Which of the rows of one list: a loss that compares them, with a cross-entropy beside it for calibration."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_mtl.rankings import RANKINGS
from stream_mtl.tasks.base import RATE_METRICS, YES_NO, Place, Settings, Spread


class Listwise:
    """The ranking loss and so much BCE as it asks for: of a softmax 0.2, and a list without a positive gives that alone."""

    unit = "probability"
    metrics = (*RATE_METRICS, "ndcg")
    helpers = 0
    whole_lists = True
    has_prior = True
    base_rate = 0.05
    spread: Spread = "entropy"
    edges = YES_NO
    kept_negatives = 1.0
    shifts = False  # the rows of a list are drawn as one
    correction = None

    def __init__(self, place: Place, settings: Settings, after: Sequence[Place] = ()) -> None:
        self._ranking = RANKINGS[settings.ranking]
        self.width = self._ranking.width
        self.tasks = (place.task,)
        self.columns = tuple(range(place.column, place.column + self.width))
        self._own = place.column
        self.place_bias, self.propensities = settings.place_bias, settings.propensities

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
        own_BW = logit_BC[:, self._own : self._own + self.width]
        list_B = self._ranking.loss(own_BW, known_B, mask_B, list_key_B)
        return torch.where(mask_B, list_B + self._ranking.pointwise * point_B, 0.0)

    def target(self, label_B: Tensor) -> Tensor:
        return label_B

    def score(self, logit_BC: Tensor) -> Tensor:
        return F.logsigmoid(logit_BC[:, self._own]).exp()

    def outputs(self, logit_BC: Tensor) -> Tensor:
        """The score; beside it what else the ranking loss reads, squeezed into (0, 1)."""
        score_B1 = self.score(logit_BC).unsqueeze(1)
        if self.width == 1:
            return score_B1
        return torch.cat((score_B1, logit_BC[:, list(self.columns[1:])].sigmoid()), 1)
