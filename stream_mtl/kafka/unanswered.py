"""A bound for a call of the client that may never come back."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Unanswered(Exception):
    """The call still stands; its thread goes on with it and what it needs is not to be touched any more."""


def answer_within(seconds: float, call: Callable[[], object]) -> None:
    """Do the call in a thread of its own and wait for it so long; raises what it raises, or Unanswered.

    A daemon thread: the process can end while the call still stands.
    """
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="client call", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise Unanswered
    if raised:
        raise raised[0]
