"""What events add to the shop's sums, kept until a chunk of it can be added in one go."""

from __future__ import annotations

import numpy as np

from stream_mtl.shop.columns import Array, Ints


class Counts:
    """Counted items in order; a run of them shares user, kind, time and amount (R runs, N items)."""

    def __init__(self) -> None:
        self._item: list[int] = []
        self._runs: list[tuple[int, int, int, float, int]] = []  # last: how many items

    def __len__(self) -> int:
        return len(self._item)

    def add(self, items: list[int], user: int, kind: int, time_ms: int, amount: float) -> None:
        self._item += items
        self._runs.append((user, kind, time_ms, amount, len(items)))

    def runs(self) -> tuple[Ints, Ints, Ints, Array]:
        """User, kind, time [R] and amount [R]."""
        user, kind, time_ms, amount, _ = zip(*self._runs, strict=True)
        return (
            np.array(user, np.int64),
            np.array(kind, np.int64),
            np.array(time_ms, np.int64),
            np.array(amount, np.float64),
        )

    def items(self) -> tuple[Ints, Ints]:
        """Item and run of each count [N]."""
        rows_R = [run[4] for run in self._runs]
        return np.array(self._item, np.int64), np.repeat(np.arange(len(rows_R)), rows_R)


class Pairs:
    """Links in order: parallel lists."""

    def __init__(self) -> None:
        self.row: list[int] = []
        self.slot: list[int] = []
        self.time: list[int] = []

    def add(self, row: int, slot: int, time_ms: int) -> None:
        self.row.append(row)
        self.slot.append(slot)
        self.time.append(time_ms)

    def add_both_ways(self, item: int, others: list[int], time_ms: int) -> None:
        """Links of an item with others that are not it, and theirs with it."""
        same = [item] * len(others)
        self.row += [*others, *same]
        self.slot += [*same, *others]
        self.time += [time_ms] * (2 * len(others))
