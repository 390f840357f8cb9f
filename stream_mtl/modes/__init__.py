"""Training modes: whose losses a step is taken on, and which of its gradients move at once."""

from __future__ import annotations

from stream_mtl.modes.alternating import Alternating
from stream_mtl.modes.base import NewMode
from stream_mtl.modes.joint import Joint

MODES: dict[str, NewMode] = {
    "alternating": Alternating,
    "joint": Joint,
}
