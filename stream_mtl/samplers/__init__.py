"""Samplers: which remembered rows a step rehearses."""

from __future__ import annotations

from stream_mtl.samplers.balanced import balanced
from stream_mtl.samplers.base import Sampler
from stream_mtl.samplers.mir import mir
from stream_mtl.samplers.staleness import staleness
from stream_mtl.samplers.uniform import uniform

SAMPLERS: dict[str, Sampler] = {
    "balanced": balanced,
    "mir": mir,
    "staleness": staleness,
    "uniform": uniform,
}
