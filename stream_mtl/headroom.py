"""How long the log will still hold what a restart has to fold again."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from stream_mtl.cut import Cut

_MOST = 10_000  # cuts remembered one by one; with more the estimate gets smaller, never larger


class Headroom:
    """`retention_ms` by topic; a topic that keeps its records for ever, or is not known, has none."""

    def __init__(self, retention_ms: Mapping[str, int]) -> None:
        self._retention = {topic: ms for topic, ms in retention_ms.items() if ms >= 0}
        # (cut, when the first of its records, or of a later cut's, expires): both rise from left to right
        self._cuts: deque[tuple[int, int]] = deque()

    def folded(self, cut: Cut) -> None:
        """A committed cut that no checkpoint holds yet."""
        expiry = min(
            (
                record.timestamp_ms + self._retention[record.topic]
                for record in cut.records
                if record.timestamp_ms is not None and record.topic in self._retention
            ),
            default=None,
        )
        if expiry is None:
            return
        while self._cuts and self._cuts[-1][1] >= expiry:
            self._cuts.pop()
        self._cuts.append((cut.number, expiry))
        if len(self._cuts) > _MOST:
            pairs = list(self._cuts)
            self._cuts = deque(
                (later[0], earlier[1])
                for earlier, later in zip(pairs[::2], pairs[1::2] + pairs[-1:], strict=False)
            )

    def saved(self, cut: int) -> None:
        """A checkpoint of this cut is durable: it and those before need not be read again."""
        while self._cuts and self._cuts[0][0] <= cut:
            self._cuts.popleft()

    def seconds(self, now_ms: int) -> float:
        """Until the first needed record expires; negative: gone. Infinite where nothing ever expires."""
        if self._cuts:
            return (self._cuts[0][1] - now_ms) / 1000
        return min(self._retention.values(), default=math.inf) / 1000
