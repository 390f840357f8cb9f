"""Replay memories: what is remembered of a task's rows, for rehearsal."""

from __future__ import annotations

from collections.abc import Callable

from stream_mtl.held import Held
from stream_mtl.memory.base import Memory
from stream_mtl.memory.class_balanced import ClassBalanced
from stream_mtl.memory.key_reservoir import key_reservoir
from stream_mtl.memory.recency_ring import recency_ring
from stream_mtl.memory.two_store import TwoStore

MEMORIES: dict[str, Callable[[Held, int], Memory]] = {  # from whose rows, and how many
    "class_balanced": ClassBalanced,
    "key_reservoir": key_reservoir,
    "recency_ring": recency_ring,
    "two_store": TwoStore,
}
