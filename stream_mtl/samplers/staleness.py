"""Rows whose ids were not updated for long, in proportion to the steps since then (FeSAIL, arXiv 2505.02844).

An id that is learned today has its embedding looked after by today's rows; one that was not touched for a thousand
steps is read by a network that has moved on. The choice looks at features, not at labels: what a row with these
features is likely to be stays as it was, so nothing has to be corrected.
"""

from __future__ import annotations

import torch
from torch import Generator

from stream_mtl.held import Sample
from stream_mtl.memory.base import Memory
from stream_mtl.memory_units import unit_means, wanted_units
from stream_mtl.samplers.base import Ask


def staleness(memory: Memory, rows: int, generator: Generator, ask: Ask) -> Sample | None:
    draws = wanted_units(memory, rows)
    if not draws:
        return None
    steps_N = unit_means(ask.staleness(memory.column("sparse_BF")), memory.counts())
    pick_N = torch.multinomial(steps_N, draws, replacement=True, generator=generator)
    return memory.take(pick_N.numpy())
