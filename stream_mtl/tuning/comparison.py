"""Is one configuration better than another, or lucky? Noise of the events and noise of the seed.

Both folds read the same events, so the difference is taken block by block of time: a delete-one-block jackknife
(Künsch 1989; Efron and Tibshirani 1993, chapter 11) of the difference, which serves ratios and AUC as well
as means, with Student's t. A block bootstrap would say about the same, at fifty times the sums and with
draws of its own; with as few as 20 blocks its percentiles would also be too narrow.
What that cannot see is that two seeds of one configuration differ too: `search` measures it by folding the
given configuration again with other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist


def jackknife_error(without_each: Sequence[float]) -> float:
    """Standard error of a statistic from its values without each of the n blocks."""
    n = len(without_each)
    mean = sum(without_each) / n
    return math.sqrt((n - 1) / n * sum((value - mean) ** 2 for value in without_each))


def student_bound(level: float, degrees: int) -> float:
    """The t that is exceeded with probability `level`: Abramowitz and Stegun 26.7.5, three terms.

    Within .01 of the tables from 10 degrees of freedom and levels of .01 on.
    """
    z = NormalDist().inv_cdf(1 - level)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3
