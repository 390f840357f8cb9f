"""The watermark: how far event time has certainly come.

As in Flink's bounded disorder: the newest event time, minus the bound, minus 1 ms, so that an event as
late as the bound allows is still before the watermark passes it. Over partitions the minimum counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stream_mtl.errors import StateError

Partition = tuple[str, int]  # topic, number


class Watermark:
    """Minimum over the partitions that are not idle. It never goes back.

    Idleness is counted in cuts, never in seconds: only what is in the log may decide. A partition that
    has never had a record holds the watermark like any other, until it is idle. Give only partitions
    whose events carry the time of users: catalogue and control topics must not hold it.
    """

    def __init__(self, out_of_order_ms: int, idle_cuts: int) -> None:
        self._bound = out_of_order_ms
        self._idle_cuts = idle_cuts
        self._newest: dict[Partition, int] = {}
        self._idle: dict[Partition, int] = {}
        self.value = 0  # epoch ms; 0 before anything is certain

    def observe(self, partition_times: Mapping[Partition, int], owned: Iterable[Partition]) -> int:
        """After one cut: its newest event time in each partition that had any; gives the watermark.

        A partition of `partition_times` that is not owned is ignored.
        """
        held: list[int | None] = []
        for partition in owned:
            time_ms = partition_times.get(partition)
            if time_ms is None:
                self._idle[partition] = self._idle.get(partition, 0) + 1
            else:
                self._idle[partition] = 0
                self._newest[partition] = max(time_ms, self._newest.get(partition, 0))
            if self._idle[partition] < self._idle_cuts:
                held.append(self._newest.get(partition))
        known = [newest for newest in held if newest is not None]
        if known and len(known) == len(held):
            self.value = max(self.value, min(known) - self._bound - 1)
        return self.value

    def state(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "partitions": [
                [topic, number, self._newest.get((topic, number)), idle]
                for (topic, number), idle in self._idle.items()
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        try:
            rows = [
                ((str(t), int(n)), newest, int(idle)) for t, n, newest, idle in state["partitions"]
            ]
            self.value = int(state["value"])
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"watermark: the saved state is not readable ({error!r})") from error
        self._idle = {partition: idle for partition, _, idle in rows}
        self._newest = {p: int(newest) for p, newest, _ in rows if newest is not None}
