"""Every remembered row alike: the memory's own way."""

from __future__ import annotations

from torch import Generator

from stream_mtl.held import Sample
from stream_mtl.memory.base import Memory
from stream_mtl.samplers.base import Ask


def uniform(memory: Memory, rows: int, generator: Generator, ask: Ask) -> Sample | None:
    return memory.sample(rows, generator)
