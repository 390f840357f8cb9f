"""As many rows of every class that is held: rare classes are rehearsed as often as frequent ones.

Case-control sampling (Prentice & Pyke 1979): what it changes is the share of the classes alone, so that the step
can undo it exactly (`prior_shift`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Generator

from stream_mtl.held import Sample
from stream_mtl.memory.base import Memory
from stream_mtl.memory_units import scaled_log_chance, wanted_units
from stream_mtl.samplers.base import Ask


def balanced(memory: Memory, rows: int, generator: Generator, ask: Ask) -> Sample | None:
    draws = wanted_units(memory, rows)
    if not draws:
        return None
    class_N = memory.classes()
    held_K = np.bincount(class_N, minlength=ask.classes)
    weight_N = torch.from_numpy(1.0 / held_K[class_N])
    pick_N = torch.multinomial(weight_N, draws, replacement=True, generator=generator)
    present_K = torch.from_numpy((held_K > 0).astype(np.float64))
    share_K = present_K / present_K.sum()
    preferred_K = torch.from_numpy(1.0 / np.maximum(held_K, 1)).log()
    held_alike = memory.log_chance()
    if held_alike is not None:
        preferred_K = preferred_K + held_alike.double()
    log_chance_K = scaled_log_chance(preferred_K, share_K)
    return replace(memory.take(pick_N.numpy()), log_chance_K=log_chance_K)
