"""Where the checkpoints of a config lie, for those who only read them."""

from __future__ import annotations

from pathlib import Path

from stream_mtl.checkpoint import CheckpointStore
from stream_mtl.checkpoint_storage import place_of
from stream_mtl.config import Config


def existing_store(config: Config) -> CheckpointStore | None:
    """None where the folder is not there: reading must not make it."""
    place = place_of(config)
    if isinstance(place, Path) and not place.is_dir():
        return None
    return CheckpointStore(place)
