"""SIGTERM and Ctrl-C as a flag that loops look at."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Stop:
    """`with Stop() as stop:` the first signal sets the flag, a second one ends the process the hard way.

    Works in the main thread; elsewhere (a test) there are no signals, and `set` is the way.
    """

    def __init__(self) -> None:
        self._event = threading.Event()
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self._event.is_set()

    is_set = __call__

    def set(self) -> None:
        self._event.set()

    def wait(self, timeout: float | None = None) -> bool:
        """In small steps: a wait without end would not see the signal on every platform."""
        if timeout is not None:
            return self._event.wait(timeout)
        while not self._event.wait(0.5):
            pass
        return True

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._event.set()
        signal.signal(
            number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler
        )
