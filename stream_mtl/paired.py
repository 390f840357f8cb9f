"""Paired comparison of two models by users: a block bootstrap, and a test that may be looked at at any time.

Each user has a part in the difference (the sum of its rows' differences over the mean rows of a user), so the
mean of the parts is the mean difference of a row. Legend: U users, R resamples.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

Floats = npt.NDArray[np.float64]

_DRAWS = 2_000_000  # users drawn at once: bounds the memory


def resampled_means(part_U: Floats, rows_U: Floats, resamples: int, seed: int) -> Floats:
    """Σ parts / Σ rows of as many users, drawn with replacement; shape R (Efron 1979)."""
    generator = torch.Generator().manual_seed(seed)
    part, rows, users = torch.from_numpy(part_U), torch.from_numpy(rows_U), len(part_U)
    means = []
    for start in range(0, resamples, max(1, _DRAWS // users)):
        count = min(max(1, _DRAWS // users), resamples - start)
        drawn_RU = torch.randint(users, (count, users), generator=generator)
        means.append(part[drawn_RU].sum(1) / rows[drawn_RU].sum(1))
    return np.asarray(torch.cat(means).numpy())


def evidence_of_harm(part_U: Floats, scale: float) -> float:
    """Likelihood ratio Λ of a mixture of differences of size `scale` against none (mSPRT).

    Johari et al. (KDD 2017), eq. 4, of paired differences with their own variance V, and 0 where the
    challenger is not worse: √(V/(V+nτ²)) exp(n²τ²θ²/(2V(V+nτ²))). Without an effect it ever exceeds 1/α
    with probability α at most, however often one looks.
    """
    users, mean = len(part_U), float(part_U.mean())
    variance = float(part_U.var(ddof=1))
    if mean <= 0 or variance == 0:
        return 0.0 if mean <= 0 else math.inf
    mixed = variance + users * scale**2
    exponent = (users * scale * mean) ** 2 / (2 * variance * mixed)
    return math.sqrt(variance / mixed) * math.exp(min(exponent, 700.0))
