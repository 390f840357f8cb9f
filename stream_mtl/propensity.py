"""How likely a place is looked at, relative to the first: what `tasks.X.propensities` wants (`events propensities`,
`ckpt propensities`). Legend: P places.

Estimated beside the fold and given as a setting: a fold that changed the weights of its own labels while it learns would judge
remembered rows by other weights than fresh ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from stream_mtl.layers import POSITION_UNIT


def from_swaps(clicked: Sequence[float], shown: Sequence[float]) -> tuple[float, ...]:
    """From clicks and showings of places 1, 2, ... of items that were put there at random (Joachims et al., WSDM 2017).

    The ratio of the rates, at most 1; of a place without a showing 1. ValueError when the first place has no clicks.
    """
    if not len(clicked) or clicked[0] <= 0:
        raise ValueError("the first place has no clicks: show more lists in random order")
    first = clicked[0] / shown[0]
    return tuple(
        min(1.0, clicks / times / first) if times else 1.0
        for clicks, times in zip(clicked, shown, strict=True)
    )


def from_bias(bias_P: Tensor) -> tuple[float, ...]:
    """From log-odds that a model with `position = "bias"` learned, indexed by place (0 is not known and left out).

    exp(b_k - b_1): exact where clicks are rare, so that odds are rates; else too low, since a bias divides odds. At most 1.
    """
    found: list[float] = (bias_P[1:] - bias_P[1]).exp().clamp(max=1).tolist()
    return tuple(found)


def learned(state: Mapping[str, Any]) -> dict[str, tuple[float, ...]]:
    """`from_bias` of every task that has one, from the state of a fold: as it is served, or as it learns where it keeps no average."""
    found = {}
    tasks = state["evaluation/tasks"]  # those that a command has added too
    biases = {part: _biases(state, part) for part in ("model", "average")}
    for place, bias_P in (biases["model"] | biases["average"]).items():
        shown_P = bias_P.nonzero()
        if len(shown_P):
            found[tasks[place]] = from_bias(POSITION_UNIT * bias_P[: int(shown_P.max()) + 1])
    return found


def _biases(state: Mapping[str, Any], part: str) -> dict[int, Tensor]:
    """By the place of their task."""
    named = re.compile(rf"learner/{part}/(?:.*\.)?heads\.(\d+)\.position_bias")
    heads = {name: named.fullmatch(name) for name in state}
    return {int(head.group(1)): state[name] for name, head in heads.items() if head}
