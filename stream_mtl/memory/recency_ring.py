"""The newest rows, for plasticity: by event time, rows of the same millisecond in the order of a hash.

Not the rows that came last: a ring in the order of arrival would hold other rows after offsets were read again, or
after two partitions arrived the other way round.
"""

from __future__ import annotations

from stream_mtl.held import Held
from stream_mtl.keyed_store import KeyedStore
from stream_mtl.memory_units import newest_keys


def recency_ring(held: Held, rows: int) -> KeyedStore:
    return KeyedStore(held, rows, newest_keys)
