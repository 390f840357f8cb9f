"""A uniform sample of everything beside the newest rows: stability and plasticity (BPS, CIKM 2024; two stores).

`memory.recent` is the newest rows' share of capacity and of every draw (uniform sampling). A row may be in both; what
was sampled uniformly and what is recent differ by how the stream moved, not by their labels, so nothing is corrected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from stream_mtl.batch import Batch
from stream_mtl.errors import ConfigError
from stream_mtl.held import Held, Ints, Sample
from stream_mtl.keyed_store import KeyedStore, take_from, unit_rows
from stream_mtl.memory_units import newest_keys, random_keys
from stream_mtl.state import State, nest, unnest


class TwoStore:
    def __init__(self, held: Held, rows: int) -> None:
        """Raises ConfigError where one of the two would have no room for a single unit."""
        recent = round(rows * held.recent)
        if min(recent, rows - recent) < unit_rows(held):
            raise ConfigError(
                f"memory.policy = 'two_store' parts {rows} rows of task {held.task!r} into"
                f" {rows - recent} and {recent} (memory.recent = {held.recent}); each needs at least"
                f" {unit_rows(held)}: raise memory.rows or choose another share"
            )
        self._held = held
        self._stores = (
            KeyedStore(held, rows - recent, random_keys),
            KeyedStore(held, recent, newest_keys),
        )

    def __len__(self) -> int:
        return sum(len(store) for store in self._stores)

    def add(self, batch: Batch, logit_BC: Tensor, version: int) -> int:
        return sum(store.add(batch, logit_BC, version) for store in self._stores)

    def sample(self, rows: int, generator: Generator) -> Sample | None:
        recent = round(rows * self._held.recent)
        drawn = [
            (store.units(), store.draw(part, generator))
            for store, part in zip(self._stores, (rows - recent, recent), strict=True)
        ]
        (first, long_N), (_, recent_N) = drawn
        pick_N = np.concatenate((long_N, recent_N + first))
        return self.take(pick_N) if len(pick_N) else None

    def units(self) -> int:
        return sum(store.units() for store in self._stores)

    def counts(self) -> Ints:
        return np.concatenate([store.counts() for store in self._stores])

    def classes(self) -> Ints:
        return np.concatenate([store.classes() for store in self._stores])

    def log_chance(self) -> Tensor | None:
        return None

    def column(self, name: str) -> Tensor:
        return torch.cat([store.column(name) for store in self._stores])

    def take(self, pick_N: Ints, first: int = 0) -> Sample:
        return take_from(self._stores, pick_N, first)

    def repair(self, batch: Batch) -> int:
        return sum(store.repair(batch) for store in self._stores)

    def erase(self, user_key: int) -> int:
        return sum(store.erase(user_key) for store in self._stores)

    def merge(self, other: TwoStore) -> None:
        for store, others in zip(self._stores, other._stores, strict=True):
            store.merge(others)

    def resized(self, rows: int) -> TwoStore:
        new = TwoStore(self._held, rows)
        new.merge(self)
        return new

    def state(self) -> State:
        long, recent = self._stores
        return {**nest("long", long.state()), **nest("recent", recent.state())}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, store in zip(("long", "recent"), self._stores, strict=True):
            store.restore(unnest(name, state))
