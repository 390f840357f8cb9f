"""A copy of the state of one cut, cheap to take while the fold waits.

The fold goes on while the copy is written, so nothing in it may share memory with live state: tensors
are cloned and JSON values are turned into bytes on the calling thread.
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
