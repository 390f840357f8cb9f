"""Models: one network for all tasks, over embeddings that the learner looked up."""

from __future__ import annotations

from collections.abc import Callable

from stream_mtl.layers import Parts
from stream_mtl.models.aitm import AITM
from stream_mtl.models.base import Model
from stream_mtl.models.cgc import CGC
from stream_mtl.models.mmoe import MMoE
from stream_mtl.models.ple import PLE
from stream_mtl.models.shared_bottom import SharedBottom
from stream_mtl.models.single import Single

MODELS: dict[str, Callable[[Parts], Model]] = {
    "aitm": AITM,
    "cgc": CGC,
    "mmoe": MMoE,
    "ple": PLE,
    "shared_bottom": SharedBottom,
    "single": Single,
}
