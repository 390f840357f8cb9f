"""Regularisers: what holds parameters near where they were at the end of a span."""

from __future__ import annotations

from stream_mtl.regularizers.base import Method
from stream_mtl.regularizers.ewc import EWC
from stream_mtl.regularizers.mas import MAS
from stream_mtl.regularizers.rwalk import RWALK
from stream_mtl.regularizers.si import SI

REGULARIZERS: dict[str, Method | None] = {  # None: parameters are free
    "ewc": EWC,
    "mas": MAS,
    "none": None,
    "rwalk": RWALK,
    "si": SI,
}
