"""What a component keeps between steps, as flat named values: tensors, and JSON values for the rest.

Whatever is not in `state()` does not survive, and the fold over the log is broken. A component that is
restored and goes on must do bit for bit what it would have done without the interruption; where the
order of a dict decides anything, it is saved as a list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

import torch

State = dict[str, Any]  # name -> torch.Tensor | JSON value (dict keys are strings)


class Stateful(Protocol):
    """Anything that takes part in a checkpoint."""

    def state(self) -> State:
        """Everything kept, by name. Tensors may alias live memory: the caller clones what it keeps."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state()` described; raises StateError when shapes or names do not fit."""
        ...


class Stateless:
    """For what keeps nothing between steps, where something else in its place might."""

    def state(self) -> State:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        del state


def nest(prefix: str, state: Mapping[str, Any]) -> State:
    return {f"{prefix}/{name}": value for name, value in state.items()}


def unnest(prefix: str, state: Mapping[str, Any]) -> State:
    cut = len(prefix) + 1
    return {name[cut:]: value for name, value in state.items() if name.startswith(prefix + "/")}


def canonical_json(value: object) -> bytes:
    """The one way a JSON value of a state is written: sorted keys, no spaces, NaN as `NaN`."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=True).encode()


def misfits(own: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """What keeps `state` from being restored over `own`: names missing or unknown, other shapes."""
    faults = [f"{name} is missing" for name in own if name not in state]
    faults += [f"{name} is unknown" for name in state if name not in own]
    for name, live in own.items():
        expected, found = (tuple(getattr(v, "shape", ())) for v in (live, state.get(name)))
        if name in state and expected != found:
            faults.append(f"{name} has shape {found}, expected {expected}")
    return faults


def digest(state: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes in the order of names (hex).

    A value of type `bytes` is a JSON value that `canonical_json` has written already.
    """
    h = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        h.update(name.encode() + b"\0")
        if isinstance(value, torch.Tensor):
            dense = value.detach().cpu().contiguous()
            h.update(f"{dense.dtype}{tuple(dense.shape)}".encode())
            if dense.numel():  # the memory itself: a copy of it would hold up other threads
                h.update(dense.reshape(-1).view(torch.uint8).numpy().data)
        else:
            h.update(value if isinstance(value, bytes) else canonical_json(value))
    return h.hexdigest()
