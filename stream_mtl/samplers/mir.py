"""Maximally interfered retrieval (Aljundi et al., NeurIPS 2019): the rows that the fresh ones would hurt most.

Of uniformly drawn candidates those stay whose loss would grow most by a step on the fresh rows alone. It costs that
virtual step and two forwards of the candidates. The choice looks at labels, and no shift undoes that: probabilities
of rehearsed tasks may drift from their rates.
"""

from __future__ import annotations

import torch
from torch import Generator

from stream_mtl.held import Sample
from stream_mtl.memory.base import Memory
from stream_mtl.memory_units import unit_means, wanted_units
from stream_mtl.samplers.base import Ask


def mir(memory: Memory, rows: int, generator: Generator, ask: Ask) -> Sample | None:
    """`ask.candidates` units, and never fewer than two for each that is wanted; without replacement."""
    draws = wanted_units(memory, rows)
    if not draws:
        return None
    asked = max(ask.candidates, 2 * draws)
    pick_N = torch.randperm(memory.units(), generator=generator)[:asked].numpy()
    growth_N = unit_means(ask.growth(memory.take(pick_N)), memory.counts()[pick_N])
    most = growth_N.topk(min(draws, len(pick_N))).indices
    return memory.take(pick_N[most.numpy()])
