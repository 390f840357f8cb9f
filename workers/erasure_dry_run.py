"""What an erasure would find, by the newest checkpoint: the worker and its topics are left alone."""

from __future__ import annotations

from dataclasses import dataclass

from stream_mtl.config import Config
from stream_mtl.erasure import erase
from stream_mtl.errors import CheckpointMissing
from stream_mtl.scoring import Moment
from workers.stores import existing_store


@dataclass(frozen=True, slots=True)
class Found:
    """`cut`: of the checkpoint that was looked at; what came since is not in it."""

    counts: dict[str, int]
    checkpoints: int
    cut: int


def would_erase(config: Config, user_id: str) -> Found:
    """Erase in a copy. Raises CheckpointMissing without a checkpoint, CheckpointCorrupt, StateError."""
    from stream_mtl import build

    store = existing_store(config)
    known = store.list() if store is not None else []
    if store is None or not known:
        raise CheckpointMissing(
            "there is no checkpoint to look into; --state or -c names another place, or let the worker write one"
        )
    state, manifest = store.load(known[0].name)
    fold = build(config, manifest.identity.lineage)
    fold.restore(state)
    done = erase(fold, user_id, Moment(0, 0, {}))
    return Found(done.counts, len(known), known[0].cut)
