"""A yes or no for every row: cross-entropy on log-odds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_mtl.imbalances import IMBALANCES
from stream_mtl.rankings import RANKINGS
from stream_mtl.tasks.base import RATE_METRICS, YES_NO, Place, Settings, Spread

_RATE = 0.05  # that a new head predicts


class Binary:
    """BCE (with `smoothing` s against labels s/2 and 1 - s/2), and with `listwise` > 0 that many parts of a ranking loss over a click and its drawn negatives.

    Of negatives that were thinned to a share w, training adds ln(1/w) to the log-odds, and serving does not: with q the
    rate among the kept rows, logit q = logit p + ln(1/w) exactly.
    Where a shop logs what it showed, BCE alone: the softmax sharpens the log-odds inside lists with a click
    and would make all of them too high (by a quarter, on the simulated shop).
    """

    unit = "probability"
    metrics = RATE_METRICS
    width = 1
    helpers = 0
    has_prior = True
    spread: Spread = "entropy"
    edges = YES_NO
    correction = None

    def __init__(self, place: Place, settings: Settings, after: Sequence[Place] = ()) -> None:
        self.tasks, self.columns = (place.task,), (place.column,)
        self.whole_lists = settings.listwise > 0
        self._own, self._listwise = place.column, settings.listwise
        self._ranking = RANKINGS[settings.ranking]
        self.place_bias, self.propensities = settings.place_bias, settings.propensities
        self.kept_negatives = settings.keep_negatives
        self._thinned = -math.log(settings.keep_negatives)
        self._imbalance, self.base_rate = None, _RATE
        if settings.imbalance != "none":
            new = IMBALANCES[settings.imbalance]
            self._imbalance = new(settings.class_weights, settings.focal_gamma)
            self.base_rate = self._imbalance.first_rate(_RATE)
        self.shifts = not self.whole_lists and (self._imbalance is None or self._imbalance.shifts)
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
        if self._thinned:
            logit_B = logit_B + self._thinned
        known_B = label_B.masked_fill(~mask_B, 0.0)
        loss_B = self._pointwise(logit_B, known_B)
        if self._listwise and bool(drawn_B.any()):
            loss_B = loss_B + self._listwise * self._ranking.loss(
                logit_B.unsqueeze(1), known_B, mask_B & drawn_B, list_key_B
            )
        return torch.where(mask_B, loss_B, 0.0)

    def _pointwise(self, logit_B: Tensor, label_B: Tensor) -> Tensor:
        if self._imbalance is not None:
            no_B, yes_B = self._imbalance.costs(_two(logit_B)).unbind(1)
            return label_B * yes_B + (1 - label_B) * no_B
        target_B = label_B
        if self._smoothing:
            target_B = label_B * (1 - self._smoothing) + self._smoothing / 2
        return F.binary_cross_entropy_with_logits(logit_B, target_B, reduction="none")

    def target(self, label_B: Tensor) -> Tensor:
        return label_B

    def score(self, logit_BC: Tensor) -> Tensor:
        logit_B = logit_BC[:, self._own]
        if self._imbalance is not None:
            return self._imbalance.log_probability(_two(logit_B))[:, 1].exp()
        return F.logsigmoid(logit_B).exp()

    def outputs(self, logit_BC: Tensor) -> Tensor:
        return self.score(logit_BC).unsqueeze(1)


def _two(logit_B: Tensor) -> Tensor:
    """Logits of no and yes (B x 2)."""
    return torch.stack((torch.zeros_like(logit_B), logit_B), 1)
