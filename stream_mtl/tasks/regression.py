"""A number: squared error in units of `scale` around `center`, of the label or of log(1 + label).

The units are settings, not running statistics, so that a logit means the same in every year of the stream (and in every
remembered row).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stream_mtl.tasks.base import Place, Settings, Spread

_LIMIT = 10.0  # units from the center that a label teaches at most: one absurd value must not drown a step

_QUARTILES = (-0.6745, 0.0, 0.6745)  # of a normal law, in the head's unit around its center


class Regression:
    """(target - logit)^2, halved; target = (label - center) / scale."""

    unit = "the value, in the unit of its label"
    metrics = ("normalized_entropy", "rmse", "mae")
    width = 1
    helpers = 0
    whole_lists = False
    has_prior = place_bias = False
    propensities: tuple[float, ...] = ()
    kept_negatives = 1.0
    shifts = False  # a value has no log-odds
    correction = None
    base_rate = 0.5
    spread: Spread = "variance"

    def __init__(self, place: Place, settings: Settings, after: Sequence[Place] = ()) -> None:
        self.tasks, self.columns = (place.task,), (place.column,)
        self._own = place.column
        self._center, self._scale, self._log = settings.center, settings.scale, settings.log
        logit_QC = torch.tensor(_QUARTILES).unsqueeze(1).expand(-1, place.column + 1)
        self.edges = tuple(self.score(logit_QC).tolist())

    def loss(
        self,
        logit_BC: Tensor,
        label_B: Tensor,
        mask_B: Tensor,
        list_key_B: Tensor,
        drawn_B: Tensor,
    ) -> Tensor:
        target_B = self.target(label_B.masked_fill(~mask_B, 0.0))
        return torch.where(mask_B, (target_B - logit_BC[:, self._own]).square() / 2, 0.0)

    def target(self, label_B: Tensor) -> Tensor:
        """The logit that would be right."""
        value_B = label_B.clamp(min=0).log1p() if self._log else label_B
        return ((value_B - self._center) / self._scale).clamp(-_LIMIT, _LIMIT)

    def score(self, logit_BC: Tensor) -> Tensor:
        """The predicted value, in the unit of the label."""
        value_B = self._center + self._scale * logit_BC[:, self._own]
        return value_B.expm1() if self._log else value_B

    def outputs(self, logit_BC: Tensor) -> Tensor:
        return self.score(logit_BC).unsqueeze(1)
