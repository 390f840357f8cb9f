"""Strings at the border, integers inside: ids interned into reusable slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stream_mtl.hashing import hash64
from stream_mtl.shop.columns import Array, Column, Columns, Ints
from stream_mtl.state import State, nest, unnest

LEAVING = 64  # when full, one slot in this many is given up at once, so that sweeps are rare


class Slots(Columns):
    """id <-> slot, with the time of the last touch, a generation a reuse, and the id's hash.

    A slot is free exactly when its name is empty; freed slots are reused last in, first out.
    """

    touched: Ints
    generation: Array
    hashed: Ints

    def __init__(self, limit: int) -> None:
        super().__init__(
            {
                "touched": Column("int64"),
                "generation": Column("int32"),
                "hashed": Column("int64"),
            }
        )
        self.limit = limit
        self.used = 0  # slots ever used: all arrays are meaningful below this
        self.names: list[str] = []
        self.index: dict[str, int] = {}
        self.free: list[int] = []

    def __len__(self) -> int:
        return len(self.index)

    def full(self) -> bool:
        return len(self.index) >= self.limit

    def add(self, name: str, time_ms: int) -> int:
        """The slot of a new name; the caller has made room."""
        if self.free:
            slot = self.free.pop()
            self.names[slot] = name
        else:
            slot = self.used
            self.reserve(slot + 1)
            self.names.append(name)
            self.used += 1
        self.index[name] = slot
        self.touched[slot] = time_ms
        self.hashed[slot] = hash64(name)
        return slot

    def known(self, names: Sequence[str], time_ms: int) -> list[int] | None:
        """The slots of these names, touched; None, and nothing touched, where one of them is new."""
        index, touched = self.index, self.touched
        try:
            slots = [index[name] for name in names]
        except KeyError:
            return None
        for slot in slots:
            if time_ms > touched[slot]:
                touched[slot] = time_ms
        return slots

    def touch(self, slot: int, time_ms: int) -> None:
        if time_ms > self.touched[slot]:
            self.touched[slot] = time_ms

    def in_use(self) -> Array:
        """bool [used]"""
        live = np.ones(self.used, bool)
        live[self.free] = False
        return live

    def longest_untouched(self) -> Ints:
        """Slots to give up when full: a small share, oldest first, ties by slot."""
        live = np.flatnonzero(self.in_use())
        order = np.argsort(self.touched[live], kind="stable")
        return live[order[: max(1, self.limit // LEAVING)]]

    def untouched_since(self, time_ms: int) -> Ints:
        return np.flatnonzero(self.in_use() & (self.touched[: self.used] < time_ms))

    def release(self, slot_R: Ints) -> list[str]:
        """Free slots; their generation moves on, so that old references can be told. Returns names."""
        gone = []
        for slot in slot_R.tolist():
            name = self.names[slot]
            gone.append(name)
            del self.index[name]
            self.names[slot] = ""
            self.free.append(slot)
        self.touched[slot_R] = 0
        self.hashed[slot_R] = 0
        self.generation[slot_R] += 1
        return gone

    def saved(self) -> State:
        return {
            "names": list(self.names),
            "free": list(self.free),
            **nest("row", self.state(self.used)),
        }

    def restore_saved(self, state: Mapping[str, Any]) -> None:
        self.names, self.free = list(state["names"]), list(state["free"])
        self.used = len(self.names)
        self.index = {name: slot for slot, name in enumerate(self.names) if name}
        for slot in self.free:
            self.index.pop(self.names[slot], None)
        self.restore(unnest("row", state))


class Vocabulary:
    """A small closed set of strings (domains, categories, brands): code 0 is "none" and "too many"."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.names: list[str] = []
        self.index: dict[str, int] = {}
        self.hashed: Ints = np.zeros(16, np.int64)
        self.restore([""])

    def code(self, name: str) -> int:
        code = self.index.get(name)
        if code is None:
            if len(self.names) >= self.limit:
                return 0
            code = self.index[name] = len(self.names)
            self.names.append(name)
            if code >= len(self.hashed):
                self.hashed = np.concatenate([self.hashed, np.zeros_like(self.hashed)])
            self.hashed[code] = hash64(name)
        return code

    def __len__(self) -> int:
        return len(self.names)

    def restore(self, names: list[str]) -> None:
        self.names = list(names)
        self.index = {name: code for code, name in enumerate(self.names)}
        self.hashed = np.zeros(max(16, len(self.names)), np.int64)
        for code, name in enumerate(self.names[1:], 1):
            self.hashed[code] = hash64(name)
