"""A diary of the sink's transactional calls: what a checker may hold against the log afterwards.

A recorder is passed down as a failpoint is, so the library opens no file and reads no clock, and the default
costs one empty call.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Outcome(StrEnum):
    """How a call stands. A call that was invoked and never told an outcome died with its process."""

    INVOKED = "invoked"
    OK = "ok"
    FAILED = "failed"  # surely without effect
    INDETERMINATE = "indeterminate"  # it may have taken effect, or still will


CALLS = ("init", "begin", "produce", "flush", "offsets", "commit")

Recorder = Callable[[str, Outcome, int], None]  # one of CALLS, how it stands, cut number


def unrecorded(call: str, outcome: Outcome, cut: int) -> None:
    """The recorder of every run that is not a test."""
