"""What differs between two states, part by part."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stream_mtl.checkpoint_bytes import as_bytes
from stream_mtl.state import canonical_json


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one named part. For tensors of one shape and type also by how much; else None."""

    part: str
    kind: str  # only_a, only_b, shape, tensor, value
    bytes_a: int
    bytes_b: int
    changed: tuple[str, ...] = ()  # keys of a value that is an object
    rows: int | None = None  # along the first dimension, with any changed element
    of_rows: int | None = None
    largest: float | None = None  # absolute change
    relative: float | None = None  # norm of the change over the norm of A

    def as_json(self) -> dict[str, object]:
        found = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in found.items() if value not in (None, ())}

    def said(self) -> str:
        """For people."""
        if self.kind in ("only_a", "only_b"):
            return f"only in {self.kind[-1].upper()} ({max(self.bytes_a, self.bytes_b)} bytes)"
        if self.kind == "tensor":
            return (
                f"{self.rows} of {self.of_rows} rows, largest change {self.largest:.4g}, "
                f"relative {self.relative:.4g}"
            )
        more = f", keys {', '.join(self.changed[:5])}" if self.changed else ""
        return f"{self.kind} differs, {self.bytes_a} and {self.bytes_b} bytes{more}"


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """In the order of names; equal parts are left out. Compared are bytes: NaN equals NaN, -0 not 0."""
    found = []
    for name in sorted(a.keys() | b.keys()):
        if name not in b:
            found.append(Difference(name, "only_a", _size(a[name]), 0))
        elif name not in a:
            found.append(Difference(name, "only_b", 0, _size(b[name])))
        elif (one := _compare(name, a[name], b[name])) is not None:
            found.append(one)
    return found


def _compare(name: str, a: Any, b: Any) -> Difference | None:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _tensors(name, a, b)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return Difference(name, "shape", _size(a), _size(b))
    raw_a, raw_b = canonical_json(a), canonical_json(b)
    if raw_a == raw_b:
        return None
    changed: tuple[str, ...] = ()
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted(a.keys() | b.keys())
        changed = tuple(k for k in keys if canonical_json(a.get(k)) != canonical_json(b.get(k)))
    return Difference(name, "value", len(raw_a), len(raw_b), changed)


def _tensors(name: str, a: Tensor, b: Tensor) -> Difference | None:
    if a.shape != b.shape or a.dtype != b.dtype:
        return Difference(name, "shape", a.nbytes, b.nbytes)
    if as_bytes(a.contiguous()) == as_bytes(b.contiguous()):
        return None
    rows = a.shape[0] if a.dim() else 1
    before, after = (t.double().reshape(rows, -1) for t in (a, b))
    change = (after - before).abs()
    norm = float(before.norm())
    touched = ~((before == after) | (before.isnan() & after.isnan())).all(1)
    return Difference(
        name,
        "tensor",
        a.nbytes,
        b.nbytes,
        rows=int(touched.sum()),
        of_rows=rows,
        largest=float(change.nan_to_num(math.inf).max()),
        relative=float((after - before).norm()) / norm if norm else math.inf,
    )


def _size(value: Any) -> int:
    return value.nbytes if isinstance(value, Tensor) else len(canonical_json(value))
