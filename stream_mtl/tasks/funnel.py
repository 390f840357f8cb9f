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
from stream_mtl.tasks.base import Place, Settings, Spread

_LN2 = math.log(2.0)
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

    width = 1
    whole_lists = False
    has_prior = False
    base_rate = 0.1
    spread: Spread = "entropy"

    def __init__(self, place: Place, settings: Settings, after: Sequence[Place] = ()) -> None:
        if not after:
            raise ConfigError(
                "a task of kind 'funnel' needs `after`: the name of the task whose positive comes"
                " first; set it or use kind 'binary'"
            )
        self.tasks = tuple(one.task for one in (place, *after))
        self.columns = tuple(one.column for one in (place, *after))

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
        loss_B = -(known_B * log_p_B + (1 - known_B) * log1mexp(log_p_B))
        return torch.where(mask_B, loss_B, 0.0)

    def _log_probability(self, logit_BC: Tensor) -> Tensor:
        log_p_B = F.logsigmoid(logit_BC[:, self.columns[-1]])
        for column in reversed(self.columns[:-1]):
            log_p_B = log_p_B + F.logsigmoid(logit_BC[:, column])
        return log_p_B

    def score(self, logit_BC: Tensor) -> Tensor:
        return self._log_probability(logit_BC).exp()

    def outputs(self, logit_BC: Tensor) -> Tensor:
        return self.score(logit_BC).unsqueeze(1)
