"""When a span of the stream ends: a drift alarm of any task, or a boundary in event time.

Time boundaries are multiples of `rehearsal.span_ms` since 1970, so they do not depend on where reading began. A span
shorter than LEAST steps does not end: one change of regime raises alarms of several tasks, cut after cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stream_mtl.cut import DriftAlarm
from stream_mtl.state import State

LEAST = 50


class Spans:
    """Off (and then without any state) where nothing listens."""

    def __init__(self, span_ms: int, on: bool) -> None:
        """`span_ms`: event time; 0: only drift ends a span."""
        self._span_ms, self._on = span_ms, on
        self._began = 0  # steps done when the span began
        self._number = -1  # of the time boundary that was passed last; -1: none was looked at yet
        self._due = False  # a boundary was passed within the first LEAST steps

    def ended(
        self, event_time: int, alarms: Sequence[DriftAlarm], steps: int
    ) -> dict[str, object] | None:
        """Why the span ends now, for the ledger; None: it goes on. `event_time`: the newest so far."""
        if not self._on:
            return None
        if self._span_ms:
            number = event_time // self._span_ms
            self._due |= 0 <= self._number < number
            self._number = max(self._number, number)
        if not (self._due or alarms) or steps - self._began < LEAST:
            return None
        tasks = sorted({alarm.task for alarm in alarms})
        why: dict[str, object] = {"drifted": tasks} if tasks else {"span_ms": self._span_ms}
        self._began, self._due = steps, False
        return {**why, "step": steps}

    def state(self) -> State:
        if not self._on:
            return {}
        return {"began": self._began, "number": self._number, "due": self._due}

    def restore(self, state: Mapping[str, Any]) -> None:
        if self._on:
            self._began, self._number = int(state["began"]), int(state["number"])
            self._due = bool(state["due"])
