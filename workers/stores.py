"""Where the checkpoints of a config lie, for those who only read them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from stream_mtl.checkpoint import CheckpointStore
from stream_mtl.checkpoint_storage import place_of
from stream_mtl.config import Config
from stream_mtl.errors import CheckpointCorrupt
from stream_mtl.recovery import Candidates


def existing_store(config: Config) -> CheckpointStore | None:
    """None where the folder is not there: reading must not make it."""
    place = place_of(config)
    if isinstance(place, Path) and not place.is_dir():
        return None
    return CheckpointStore(place)


def saved_states(store: Candidates, ledger_hashes: Collection[str]) -> dict[int, str]:
    """Cut -> state digest of the checkpoints that were made after one of these ledger records."""
    found = {}
    for info in store.list():
        try:
            manifest = store.manifest(info.name)
        except CheckpointCorrupt:
            continue
        if manifest.identity.ledger_hash in ledger_hashes:
            found[info.cut] = manifest.state_digest
    return found
