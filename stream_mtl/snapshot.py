"""The state of one cut as a checkpoint takes it: a copy, or a view where nobody changes it meanwhile.

The fold goes on while a copy is written, so nothing in it may share memory with live state: tensors are
cloned and JSON values are turned into bytes on the calling thread. A forked process needs no copy: its
memory is that of the moment of the fork (`checkpoint_fork`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stream_mtl.state import canonical_json


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Tensors on the CPU that nobody else holds, and JSON values as canonical bytes."""

    tensors: Mapping[str, Tensor]
    values: Mapping[str, bytes]


def snapshot(state: Mapping[str, Any]) -> Snapshot:
    """Copy a state. Contiguous copies: two names may alias one storage in live memory, never here."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, bytes] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            copy = torch.empty(value.shape, dtype=value.dtype, device="cpu")
            tensors[name] = copy.copy_(value.detach())
        else:
            values[name] = canonical_json(value)
    return Snapshot(tensors, values)


def view(state: Mapping[str, Any]) -> Snapshot:
    """A state without copying it, for a process of its own in which no fold goes on."""
    tensors = {n: v.detach().cpu() for n, v in state.items() if isinstance(v, Tensor)}
    values = {n: canonical_json(v) for n, v in state.items() if n not in tensors}
    return Snapshot(tensors, values)
