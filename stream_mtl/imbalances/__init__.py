"""Losses for classes of very different frequency (`tasks.X.imbalance`), beside the plain cross-entropy ("none").

Resampling is elsewhere: `thinning` for fresh negatives, `memory.sampler = "balanced"` for rehearsed rows.
"""

from __future__ import annotations

from stream_mtl.imbalances.base import NewImbalance
from stream_mtl.imbalances.class_weights import ClassWeights
from stream_mtl.imbalances.focal import Focal

IMBALANCES: dict[str, NewImbalance] = {
    "class_weights": ClassWeights,
    "focal": Focal,
}
