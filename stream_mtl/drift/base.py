"""What a drift detector promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol


class Detector(Protocol):
    """Watches a stream of numbers for a change of its mean or distribution.

    Every detector takes `tests`, how many tests run side by side, and divides its rate of false alarms by
    it: an alarm that one test in a hundred gives by chance, a hundred tests give all the time (Bonferroni).
    Whatever else it takes has river 0.26's names and defaults, and with `tests` = 1 it alarms where river's
    does. Like river's it starts afresh with the number after an alarm.
    """

    binary: ClassVar[bool]  # whether it takes errors, 0 or 1, and nothing else
    drift: bool  # at the newest number
    warning: bool  # a drift may be on its way; False in detectors that do not know warnings
    rose: bool  # the direction of the newest drift

    def update(self, value: float) -> None: ...

    def state(self) -> dict[str, Any]:
        """Plain JSON values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None: ...
