"""As many rows of every class that was seen: a key reservoir a class (Chrysakis & Moens, ICML 2020, with random keys).

M units among k classes: floor(M / k) each, the remainder one each to the lowest class numbers. Quotas shrink as
classes appear, and a reservoir that shrinks keeps a prefix, so what is held depends on the rows alone. A row whose
label changes moves to its new class with its key. Rare classes are over-represented then: `log_chance` says by how
much, as the chance that a row of the class is held follows from the largest key its reservoir turned away.

Legend: M units in all, K classes, N units, R their rows, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from stream_mtl.batch import Batch
from stream_mtl.errors import ConfigError, StateError
from stream_mtl.held import Held, Ints, Sample
from stream_mtl.keyed_store import KeyedStore, columns, take_from, unit_rows
from stream_mtl.memory_units import random_keys, scaled_log_chance, wanted_units
from stream_mtl.state import State, misfits


class ClassBalanced:
    def __init__(self, held: Held, rows: int) -> None:
        """Raises ConfigError when not every class could have a unit: quotas of 0 would forget silently."""
        self._held, self._unit_rows = held, unit_rows(held)
        self._units = max(1, rows // self._unit_rows)
        self._classes = len(held.edges) + 1
        if self._units < self._classes:
            raise ConfigError(
                f"memory.policy = 'class_balanced': task {held.task!r} has {self._classes} classes, and"
                f" {rows} rows are room for {self._units}"
                f" {'lists' if self._unit_rows > 1 else 'rows'}; raise memory.rows or use 'key_reservoir'"
            )
        self._stores: dict[int, KeyedStore] = {}  # in the order of classes
        self._units_of = KeyedStore(held, self._unit_rows, random_keys).grouped

    def __len__(self) -> int:
        return sum(len(store) for store in self._stores.values())

    def add(self, batch: Batch, logit_BC: Tensor, version: int) -> int:
        """A row that comes again with another label leaves the reservoir of its old class."""
        units = self._units_of(batch)
        if not len(units.key_N):
            return 0
        label_R = batch.label_BT[torch.from_numpy(units.row_R), self._held.own]
        start_N = np.cumsum(units.count_N) - units.count_N
        class_N = np.maximum.reduceat(self._held.classes(label_R), start_N)
        present = np.unique(class_N).tolist()
        self._appear(present)
        for one, store in self._stores.items():
            store.drop(units.key_N[class_N != one])
        return sum(
            self._stores[one].put(units.only(class_N == one), batch, logit_BC, version)
            for one in present
        )

    def _appear(self, classes: list[int]) -> None:
        """Room for these classes, as small as it then has to be for all."""
        if all(one in self._stores for one in classes):
            return
        seen = sorted({*self._stores, *classes})
        quota, rest = divmod(self._units, len(seen))
        room = [(quota + (place < rest)) * self._unit_rows for place in range(len(seen))]
        self._stores = {
            one: self._stores[one].resized(rows)
            if one in self._stores
            else KeyedStore(self._held, rows, random_keys)
            for one, rows in zip(seen, room, strict=True)
        }

    def sample(self, rows: int, generator: Generator) -> Sample | None:
        draws = wanted_units(self, rows)
        if not draws:
            return None
        return self.take(torch.randint(self.units(), (draws,), generator=generator).numpy())

    def units(self) -> int:
        return sum(store.units() for store in self._stores.values())

    def counts(self) -> Ints:
        none = np.zeros(0, dtype=np.int64)
        return np.concatenate([none, *(store.counts() for store in self._stores.values())])

    def classes(self) -> Ints:
        units = [store.units() for store in self._stores.values()]
        return np.repeat(np.array(list(self._stores), dtype=np.int64), units)

    def log_chance(self) -> Tensor | None:
        """Of class c: held_c rows stand for held_c / chance_c in the stream."""
        log_chance_K = torch.zeros(self._classes, dtype=torch.float64)
        share_K = torch.zeros(self._classes, dtype=torch.float64)
        for one, store in self._stores.items():
            log_chance_K[one], share_K[one] = float(np.log(store.chance)), store.units()
        return scaled_log_chance(log_chance_K, share_K / share_K.sum().clamp(min=1.0))

    def column(self, name: str) -> Tensor:
        return torch.cat([store.column(name) for store in self._stores.values()])

    def take(self, pick_N: Ints, first: int = 0) -> Sample:
        return take_from(tuple(self._stores.values()), pick_N, first, self.log_chance())

    def repair(self, batch: Batch) -> int:
        repaired = sum(store.repair(batch) for store in self._stores.values())
        if repaired:
            self._sort_out()
        return repaired

    def _sort_out(self) -> None:
        """Moves units to the class that their labels have now."""
        moved = []
        for one, store in self._stores.items():
            away_N = store.classes() != one
            if away_N.any():
                moved.append(store.split(away_N))
        for units in moved:
            self._appear(np.unique(units.classes()).tolist())
            for one in np.unique(units.classes()).tolist():
                self._stores[one].merge(units.split(units.classes() == one))

    def erase(self, user_key: int) -> int:
        return sum(store.erase(user_key) for store in self._stores.values())

    def merge(self, other: ClassBalanced) -> None:
        self._appear(list(other._stores))
        for one, others in other._stores.items():
            for another, store in self._stores.items():
                if another != one:
                    store.drop(others.keys())  # the other memory's label of a row counts
            self._stores[one].merge(others)

    def resized(self, rows: int) -> ClassBalanced:
        new = ClassBalanced(self._held, rows)
        new.merge(self)
        return new

    def state(self) -> State:
        """The reservoirs one after the other: of M units, however many classes there are."""
        threshold_K = torch.full((self._classes,), -1, dtype=torch.int64)
        seen_K = torch.zeros(self._classes, dtype=torch.bool)
        for one, store in self._stores.items():
            seen_K[one], threshold_K[one] = True, store.state()["threshold"]
        parts = [store.state() for store in self._stores.values()] or [self._blank()]
        state: State = {
            name: torch.cat([part[name] for part in parts])
            for name in parts[0]
            if isinstance(parts[0][name], torch.Tensor)
        }
        return {**state, "seen_K": seen_K, "threshold_K": threshold_K}

    def _blank(self) -> State:
        return KeyedStore(self._held, self._units * self._unit_rows, random_keys).state()

    def restore(self, state: Mapping[str, Any]) -> None:
        faults = misfits(self.state(), state)
        if faults:
            raise StateError(
                f"saved memory of task {self._held.task!r} does not fit: {'; '.join(faults)}; use the"
                " configuration it was saved with, or start this memory afresh"
            )
        self._stores = {}
        self._appear(state["seen_K"].nonzero().squeeze(1).tolist())
        start = 0
        for one, store in self._stores.items():
            units = len(store.state()["key_U"])
            part: State = {
                "threshold": int(state["threshold_K"][one]),
                "keys": store.state()["keys"],
            }
            for name in columns(self._held, 0):
                rows = slice(start * self._unit_rows, (start + units) * self._unit_rows)
                part[name] = state[name][rows]
            for name in ("key_U", "count_U"):
                part[name] = state[name][start : start + units]
            store.restore(part)
            start += units
