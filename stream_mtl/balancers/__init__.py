"""Balancers: how the normalised losses of the tasks, or their gradients on what they share, are weighted in one step."""

from __future__ import annotations

from collections.abc import Callable

from stream_mtl.balancers.aligned import Aligned
from stream_mtl.balancers.base import Balancer, GradientBalancer, Setup
from stream_mtl.balancers.cagrad import CAGrad
from stream_mtl.balancers.dwa import DynamicWeightAverage
from stream_mtl.balancers.famo import Famo
from stream_mtl.balancers.gradnorm import GradNorm
from stream_mtl.balancers.max import Max
from stream_mtl.balancers.mean import Mean
from stream_mtl.balancers.pcgrad import PCGrad
from stream_mtl.balancers.pooled import Pooled
from stream_mtl.balancers.random import Random
from stream_mtl.balancers.recap import Recap, recap_slow
from stream_mtl.balancers.smooth_max import SmoothMax
from stream_mtl.balancers.sum import Sum
from stream_mtl.balancers.upgrad import UPGrad
from stream_mtl.balancers.uw import UncertaintyWeights
from stream_mtl.balancers.uw_so import SoftOptimalUncertainty
from stream_mtl.balancers.weighted import Weighted

BALANCERS: dict[str, Callable[[Setup], Balancer | GradientBalancer]] = {
    "aligned": Aligned,
    "cagrad": CAGrad,
    "dwa": DynamicWeightAverage,
    "famo": Famo,
    "gradnorm": GradNorm,
    "max": Max,
    "mean": Mean,
    "pcgrad": PCGrad,
    "pooled": Pooled,
    "random": Random,
    "recap": Recap,
    "recap_slow": recap_slow,
    "smooth_max": SmoothMax,
    "sum": Sum,
    "upgrad": UPGrad,
    "uw": UncertaintyWeights,
    "uw_so": SoftOptimalUncertainty,
    "weighted": Weighted,
}
