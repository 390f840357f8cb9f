"""Models: one network for all tasks, over embeddings that the learner looked up."""

from __future__ import annotations

from collections.abc import Callable

from stream_mtl.layers import Parts
from stream_mtl.models.base import Model
from stream_mtl.models.mmoe import MMoE
from stream_mtl.models.shared_bottom import SharedBottom

MODELS: dict[str, Callable[[Parts], Model]] = {
    "mmoe": MMoE,
    "shared_bottom": SharedBottom,
}
