"""How likely a place is looked at, relative to the first: what `tasks.X.propensities` wants. Legend: P places.

Estimated beside the fold and given as a setting: a fold that changed the weights of its own labels while it learns would judge
remembered rows by other weights than fresh ones.
"""

from __future__ import annotations

from torch import Tensor


def from_swaps(click_P: Tensor, shown_P: Tensor) -> tuple[float, ...]:
    """From clicks and showings of places 1, 2, ... of items that were put there at random (Joachims et al., WSDM 2017).

    The ratio of the rates, at most 1; of a place without a showing 1. ValueError when the first place has no clicks.
    """
    if not len(click_P) or click_P[0] <= 0:
        raise ValueError("the first place has no clicks: show more lists in random order")
    rate_P = (click_P / shown_P.clamp(min=1)).where(shown_P > 0, click_P[0] / shown_P[0])
    found: list[float] = (rate_P / rate_P[0]).clamp(max=1).tolist()
    return tuple(found)


def from_bias(bias_P: Tensor) -> tuple[float, ...]:
    """From log-odds that a model with `position = "bias"` learned, indexed by place (0 is not known and left out).

    exp(b_k - b_1): exact where clicks are rare, so that odds are rates; else too low, since a bias divides odds. At most 1.
    """
    found: list[float] = (bias_P[1:] - bias_P[1]).exp().clamp(max=1).tolist()
    return tuple(found)
