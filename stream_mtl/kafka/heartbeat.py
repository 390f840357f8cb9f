"""Keeps a consumer polled while the caller is busy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

# Letting go throws away what was fetched ahead, and all of it is fetched again. In a backlog that must not happen cut
# by cut, and a full cut of 2,000 records is seconds of work; the client itself would wait for five minutes.
FIRST_S = 10.0
EVERY_S = 0.5


class Heartbeat:
    """`with Heartbeat(let_go, poll, take_up): long_step()`.

    A thread waits `first_s`; if the step still runs, it calls `let_go` once and then `poll` twice a second.
    `take_up` is called at the end when it had let go. An error of the thread is raised at the end, unless the
    step itself failed.
    """

    def __init__(
        self,
        let_go: Callable[[], None],
        poll: Callable[[], object],
        take_up: Callable[[], None],
        first_s: float = FIRST_S,
        every_s: float = EVERY_S,
    ) -> None:
        self._let_go, self._poll, self._take_up = let_go, poll, take_up
        self._first_s, self._every_s = first_s, every_s
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _run(self) -> None:
        if self._done.wait(self._first_s):
            return
        try:
            self._let_go()
            try:
                while True:
                    self._poll()
                    if self._done.wait(self._every_s):
                        return
            finally:
                self._take_up()
        except BaseException as error:  # carried over to the caller's thread
            self._error = error
