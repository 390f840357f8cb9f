"""The memories of all tasks, as the configuration wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from stream_mtl import config
from stream_mtl.batch import Spec
from stream_mtl.errors import ConfigError, StateError
from stream_mtl.held import Held
from stream_mtl.keyed_store import row_bytes, unit_rows
from stream_mtl.memory import MEMORIES
from stream_mtl.memory.base import Memory
from stream_mtl.registry import entry
from stream_mtl.state import State
from stream_mtl.tasks.base import TaskKind


def held_rows(
    spec: Spec,
    kinds: Sequence[TaskKind],
    settings: config.Memory,
    seed: int,
    device: torch.device,
) -> list[Held]:
    """Whose rows each task's memory holds."""
    return [
        Held(
            spec,
            name,
            kind.columns,
            kind.whole_lists,
            seed,
            device,
            kind.edges,
            settings.recent,
            settings.user_share,
        )
        for name, kind in zip(spec.tasks, kinds, strict=True)
    ]


def new_memories(held: Sequence[Held], settings: config.Memory) -> list[Memory]:
    """One a task; ConfigError for a policy or a size that cannot be."""
    policy = entry("memory.policy", settings.policy, MEMORIES)
    return [policy(one, capacity(one, settings)) for one in held]


def capacity(held: Held, settings: config.Memory) -> int:
    """Rows: `memory.rows`, or as many as `memory.bytes` holds."""
    if not settings.bytes:
        return settings.rows
    rows, least = settings.bytes // row_bytes(held), unit_rows(held)
    if rows < least:
        raise ConfigError(
            f"memory.bytes = {settings.bytes} holds {rows} rows of task {held.task!r}, a row being"
            f" {row_bytes(held)} bytes; at least {least} are needed: raise it, or set memory.rows"
        )
    return rows


def at_capacity(held: Held, settings: config.Memory, saved: Mapping[str, Any]) -> State | None:
    """A saved memory with what fits of its rows in as many as are configured now; None where it is of another kind."""
    rows = sum(len(value) for name, value in saved.items() if name.endswith("row_key_B"))
    try:
        before = entry("memory.policy", settings.policy, MEMORIES)(held, rows)
        before.restore({**before.state(), **saved})  # older ones may lack a name
    except (StateError, ConfigError, KeyError):
        return None
    return before.resized(capacity(held, settings)).state()
