"""A task kind that also learns from provisional labels. Legend: B rows, C logits of all heads, W of one head, H helpers."""

from __future__ import annotations

import torch
from torch import Tensor

from stream_mtl.delays.base import Delay
from stream_mtl.provisional import SEEN_NO
from stream_mtl.tasks.base import Spread, TaskKind


class Delayed:
    """A kind with one logit and a yes or no (a funnel step too), and behind it the helper logits of a method.

    A true label (0 or 1) has the kind's own loss. What is told with a code of `provisional` has the method's, in terms of
    the whole way's rate: p is P(click and buy) where the kind is a funnel.
    """

    whole_lists = False
    propensities: tuple[float, ...] = ()
    kept_negatives = 1.0
    correction = None
    spread: Spread = "entropy"

    def __init__(self, kind: TaskKind, delay: Delay) -> None:
        self._kind, self._delay = kind, delay
        self.width, self.helpers = 1 + delay.heads, delay.heads
        self.tasks, self.has_prior, self.base_rate = kind.tasks, kind.has_prior, kind.base_rate
        self.unit, self.metrics = kind.unit, kind.metrics
        self.place_bias, self.shifts, self.edges = kind.place_bias, kind.shifts, kind.edges
        own = kind.columns[0]
        self._aside = slice(own + 1, own + self.width)
        self.columns = (*range(own, own + self.width), *kind.columns[1:])

    def loss(
        self,
        logit_BC: Tensor,
        label_B: Tensor,
        mask_B: Tensor,
        list_key_B: Tensor,
        drawn_B: Tensor,
    ) -> Tensor:
        told_B = torch.where(mask_B, label_B, 0.0)
        one_B = torch.ones_like(told_B)
        yes_B = self._kind.loss(logit_BC, one_B, mask_B, list_key_B, drawn_B)
        no_B = self._kind.loss(logit_BC, one_B - 1, mask_B, list_key_B, drawn_B)
        rate_B = self._kind.score(logit_BC).detach()
        true_B = torch.where(told_B == 1, yes_B, no_B)
        delayed_B = self._delay.loss(told_B, yes_B, no_B, rate_B, logit_BC[:, self._aside])
        return torch.where(mask_B, torch.where(told_B < SEEN_NO, true_B, delayed_B), 0.0)

    def target(self, label_B: Tensor) -> Tensor:
        return label_B

    def score(self, logit_BC: Tensor) -> Tensor:
        return self._delay.serve(self._kind.score(logit_BC))

    def outputs(self, logit_BC: Tensor) -> Tensor:
        """The score; beside it the helpers' rates."""
        helper_BH = logit_BC[:, self._aside].sigmoid()
        return torch.cat((self.score(logit_BC).unsqueeze(1), helper_BH), 1)
