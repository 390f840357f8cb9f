"""A step that needs those before it: ESMM in log space (Ma et al., SIGIR 2018), for chains of any length.

P(click and buy) = P(click) * P(buy | click), and so on down the funnel, trained on all rows with a known label, never on clicked
rows alone; gradients flow into all heads of the way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_mtl.errors import ConfigError
from stream_mtl.tasks.base import RATE_METRICS, YES_NO, Correction, Place, Settings, Spread

_LN2 = math.log(2.0)
_LEAST = 1e-6  # of the sum of inverse propensities: a batch in which nobody got here adds nothing
_TOP = -1e-6  # log-probabilities stay below this, so that log(1 - p) is finite


def log1mexp(log_p: Tensor) -> Tensor:
    """log(1 - exp(t)) for t < 0 without cancellation (Maechler 2012).

    Both branches get inputs on which they are smooth: a `where` alone would let the unused branch
    send NaN gradients.
    """
    near = log_p > -_LN2
    near_p = torch.where(near, log_p, -_LN2)
    far_p = torch.where(near, -_LN2, log_p)
    return torch.where(near, (-torch.expm1(near_p)).log(), torch.log1p(-far_p.exp()))


class Funnel:
    """BCE of the whole way; the own column holds log-odds of this step given those before."""

    unit = "probability of the whole way"
    metrics = RATE_METRICS
    helpers = 0
    whole_lists = False
    has_prior = place_bias = False
    base_rate = 0.1
    spread: Spread = "entropy"
    edges = YES_NO
    shifts = False  # what is judged is a product of probabilities

    def __init__(self, place: Place, settings: Settings, after: Sequence[Place] = ()) -> None:
        if not after:
            raise ConfigError(
                "a task of kind 'funnel' needs `after`: the name of the task whose positive comes"
                " first; set it or use kind 'binary'"
            )
        self.tasks = tuple(one.task for one in (place, *after))
        self._way = tuple(one.column for one in (place, *after))  # this step first
        corrects = settings.correction != "none"
        self.correction: Correction | None = self._corrected if corrects else None
        self.propensities, self.kept_negatives = settings.propensities, settings.keep_negatives
        self._robust = settings.correction == "dr"
        self._weight, self._floor = settings.correction_weight, settings.propensity_floor
        self.width = 2 if self._robust else 1  # the second column imputes labels
        self.columns = (*range(place.column, place.column + self.width), *self._way[1:])

    def loss(
        self,
        logit_BC: Tensor,
        label_B: Tensor,
        mask_B: Tensor,
        list_key_B: Tensor,
        drawn_B: Tensor,
    ) -> Tensor:
        log_p_B = self._log_probability(logit_BC).clamp(max=_TOP)
        known_B = label_B.masked_fill(~mask_B, 0.0)
        log_not_B = log1mexp(log_p_B)
        if self.kept_negatives < 1:
            log_p_B, log_not_B = self._among_kept(log_p_B, log_not_B)
        loss_B = -(known_B * log_p_B + (1 - known_B) * log_not_B)
        return torch.where(mask_B, loss_B, 0.0)

    def _among_kept(self, log_p_B: Tensor, log_not_B: Tensor) -> tuple[Tensor, Tensor]:
        """Where a share w of the negatives is kept: p / (p + w (1 - p)), and the rest; logit + ln(1/w)."""
        log_kept_B = log_not_B + math.log(self.kept_negatives)
        log_all_B = torch.logaddexp(log_p_B, log_kept_B)
        return log_p_B - log_all_B, log_kept_B - log_all_B

    def _corrected(
        self, logit_BC: Tensor, label_B: Tensor, mask_B: Tensor, reached_B: Tensor
    ) -> Tensor:
        """What the correction adds to the loss of every row (B). `reached_B`: the step before was positive (0 or 1).

        With o = reached, q = its probability without gradient and clipped from below, d = BCE(label, this step alone)
        and e = BCE(imputed label, this step alone), over the rows with a known label:

            ips   sum(o d / q) / sum(o / q)                    (self-normalised; equation 9 with SNIPS)
            dr    mean(e + o (d - e) / q) + mean(o (d - e)^2 / q)   (equations 12 and 13)

        The mean of what is returned is that. The imputed label is the head's second column, the error is imputed through it as in Wang et
        al., ICML 2019: an error that is a free output has no gradient into the step's own head, which would then
        learn by inverse propensities alone. So the first mean moves the step, the second the imputation.
        """
        known_B = mask_B.float()
        label_B = label_B.masked_fill(~mask_B, 0.0)
        reached_B = torch.maximum(reached_B, label_B) * known_B
        inverse_B = reached_B / self._propensity(logit_BC).clamp(min=self._floor)
        own_B = logit_BC[:, self._way[0]]
        error_B = _bce(own_B, label_B)
        if not self._robust:
            rows, total = known_B.sum(), inverse_B.sum()
            return self._weight * inverse_B * error_B * rows / total.clamp(min=_LEAST)
        imputed_B = logit_BC[:, self.columns[1]].sigmoid()
        guessed_B = _bce(own_B, imputed_B.detach())
        robust_B = known_B * guessed_B + inverse_B * (error_B - guessed_B)
        fixed_B = own_B.detach()
        missed_B = _bce(fixed_B, label_B) - _bce(fixed_B, imputed_B)
        return self._weight * (robust_B + inverse_B * missed_B.square())

    def _propensity(self, logit_BC: Tensor) -> Tensor:
        """Probability of the way up to here."""
        way_BS = logit_BC.detach()[:, list(self._way[1:])]
        return F.logsigmoid(way_BS).sum(1).exp()

    def _log_probability(self, logit_BC: Tensor) -> Tensor:
        log_p_B = F.logsigmoid(logit_BC[:, self._way[-1]])
        for column in reversed(self._way[:-1]):
            log_p_B = log_p_B + F.logsigmoid(logit_BC[:, column])
        return log_p_B

    def target(self, label_B: Tensor) -> Tensor:
        return label_B

    def score(self, logit_BC: Tensor) -> Tensor:
        return self._log_probability(logit_BC).exp()

    def outputs(self, logit_BC: Tensor) -> Tensor:
        """The score; beside it, where labels are imputed, the imputed rate of this step."""
        score_B1 = self.score(logit_BC).unsqueeze(1)
        if not self._robust:
            return score_B1
        return torch.cat((score_B1, logit_BC[:, self.columns[1:2]].sigmoid()), 1)


def _bce(logit_B: Tensor, label_B: Tensor) -> Tensor:
    """Written out, since the built-in one refuses a gradient into the label."""
    return F.softplus(logit_B) - label_B * logit_B
