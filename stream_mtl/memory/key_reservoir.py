"""A uniform sample of all rows ever offered, by random keys (bottom-k sampling; Cohen and Kaplan 2007)."""

from __future__ import annotations

from stream_mtl.held import Held
from stream_mtl.keyed_store import KeyedStore
from stream_mtl.memory_units import random_keys


def key_reservoir(held: Held, rows: int) -> KeyedStore:
    return KeyedStore(held, rows, random_keys)
