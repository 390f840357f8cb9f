"""Balancers: how the normalised losses of the tasks are weighted in one step."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from stream_mtl.balancers.base import Balancer
from stream_mtl.balancers.mean import Mean
from stream_mtl.balancers.weighted import Weighted

BALANCERS: dict[str, Callable[[Tensor], Balancer]] = {  # from the configured weights of the tasks
    "mean": Mean,
    "weighted": Weighted,
}
