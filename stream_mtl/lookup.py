"""Which rows of the one embedding table a batch reads: those of its fields, and of chosen fields some more for each task.

A task's own row of an id is the row of another id: hashed once more with the task's number, in the same table. So a
private embedding costs no second table, only more load on the one (`features.table_rows`).
Legend: B rows, F sparse fields, P private fields, T tasks, L looked-up rows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from stream_mtl import config
from stream_mtl.batch import Spec
from stream_mtl.errors import ConfigError

_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_SALT = 1_000  # salts of the tasks' rows begin here

Lookup = Callable[[Tensor], Tensor]  # sparse_BF to row_BL


def lookup(spec: Spec, model: config.Model) -> Lookup:
    """L = F without private fields; F + T * P with them, task after task; T * F where tasks share nothing.

    Raises ConfigError for a private field that the batch does not have.
    """
    tasks = range(len(spec.tasks))
    if model.name == "single":  # nothing is shared, the embeddings neither
        return lambda sparse_BF: torch.cat([own(sparse_BF, t, spec.table_rows) for t in tasks], 1)
    if not model.private_fields:
        return lambda sparse_BF: sparse_BF
    unknown = [name for name in model.private_fields if name not in spec.sparse_fields]
    if unknown:
        raise ConfigError(
            f"model.private_fields names {', '.join(unknown)}; use some of: {', '.join(spec.sparse_fields)}"
        )
    place_P = [spec.sparse_fields.index(name) for name in model.private_fields]

    def rows(sparse_BF: Tensor) -> Tensor:
        private_BP = sparse_BF[:, place_P]
        return torch.cat([sparse_BF, *(own(private_BP, t, spec.table_rows) for t in tasks)], 1)

    return rows


def columns_of(spec: Spec, model: config.Model, names: Collection[str]) -> list[int]:
    """Which of the L rows are looked up by these sparse fields."""
    tasks, width = range(len(spec.tasks)), len(spec.sparse_fields)
    shared = [place for place, name in enumerate(spec.sparse_fields) if name in names]
    if model.name == "single":
        return [task * width + place for task in tasks for place in shared]
    each = len(model.private_fields)
    private = [place for place, name in enumerate(model.private_fields) if name in names]
    return shared + [width + task * each + place for task in tasks for place in private]


def own(sparse_BP: Tensor, task: int, table_rows: int) -> Tensor:
    """A task's own rows of these ids; a missing id (0) stays missing."""
    return torch.where(sparse_BP > 0, _mix(sparse_BP, _SALT + task) % (table_rows - 1) + 1, 0)


def _mix(value: Tensor, salt: int) -> Tensor:
    """`hashing.mix64` on tensors: int64 wraps as uint64 does, and the right shifts fill with zeros."""
    z = value + _signed(_GOLDEN * (salt + 1))
    z = (z ^ _shifted(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shifted(z, 27)) * _signed(_MIX_2)
    return _shifted(z ^ _shifted(z, 31), 1)


def _shifted(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(number: int) -> int:
    """The int64 of the same 64 bits."""
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >> 63 else number
