"""Replay memories: what is remembered of a task's rows, for rehearsal."""

from __future__ import annotations

from collections.abc import Callable

from stream_mtl.memory.base import Held, Memory
from stream_mtl.memory.key_reservoir import KeyReservoir

MEMORIES: dict[str, Callable[[Held, int], Memory]] = {  # from whose rows, and how many
    "key_reservoir": KeyReservoir,
}
