"""One of several classes: softmax cross-entropy over the head's logits.

Labels are class numbers below `classes`. The set may grow: a head has room for `classes` of them, and one that was never
seen is pushed down by the others' losses until its first row comes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_mtl.errors import ConfigError
from stream_mtl.imbalances import IMBALANCES
from stream_mtl.tasks.base import Place, Settings, Spread


class MultiClass:
    """Cross-entropy, with `smoothing` > 0 that part of each label spread over all classes (Szegedy et al. 2016)."""

    unit = "probability of each class"
    metrics = ("normalized_entropy", "accuracy", "macro_f1")
    helpers = 0
    whole_lists = False
    has_prior = place_bias = False
    propensities: tuple[float, ...] = ()
    kept_negatives = 1.0
    base_rate = 0.5
    spread: Spread = "class_entropy"
    correction = None

    def __init__(self, place: Place, settings: Settings, after: Sequence[Place] = ()) -> None:
        if settings.classes < 2:
            raise ConfigError(
                f"a task of kind 'multiclass' needs `classes`: how many there can be, at least 2; found"
                f" {settings.classes}"
            )
        self.width, self._smoothing = settings.classes, settings.smoothing
        self.edges = tuple(one + 0.5 for one in range(settings.classes - 1))
        self._imbalance = None
        if settings.imbalance != "none":
            new = IMBALANCES[settings.imbalance]
            self._imbalance = new(settings.class_weights, settings.focal_gamma)
        self.shifts = self._imbalance is None or self._imbalance.shifts
        self.tasks = (place.task,)
        self.columns = tuple(range(place.column, place.column + self.width))
        self._own = slice(place.column, place.column + self.width)

    def loss(
        self,
        logit_BC: Tensor,
        label_B: Tensor,
        mask_B: Tensor,
        list_key_B: Tensor,
        drawn_B: Tensor,
    ) -> Tensor:
        class_B = label_B.masked_fill(~mask_B, 0.0).long().clamp(0, self.width - 1)
        logit_BW = logit_BC[:, self._own]
        if self._imbalance is not None:
            loss_B = self._imbalance.costs(logit_BW).gather(1, class_B.unsqueeze(1)).squeeze(1)
        else:
            loss_B = F.cross_entropy(
                logit_BW, class_B, reduction="none", label_smoothing=self._smoothing
            )
        return torch.where(mask_B, loss_B, 0.0)

    def target(self, label_B: Tensor) -> Tensor:
        return label_B

    def score(self, logit_BC: Tensor) -> Tensor:
        """Probability of the likeliest class."""
        return self.outputs(logit_BC).amax(1)

    def outputs(self, logit_BC: Tensor) -> Tensor:
        logit_BW = logit_BC[:, self._own]
        if self._imbalance is not None:
            return self._imbalance.log_probability(logit_BW).exp()
        return logit_BW.softmax(1)
