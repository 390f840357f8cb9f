"""Named places where a test may end the process. The library only calls; a worker decides what happens.

A failpoint is passed down as a callable, so the library reads no environment and the default costs
one empty call.
"""

from __future__ import annotations

from collections.abc import Callable

Failpoint = Callable[[str], None]

FAILPOINTS = (
    "cut.frozen",
    "step.done",
    "commit.begin",
    "commit.produced",
    "commit.flushed",
    "commit.offsets",
    "commit.sent",
    "commit.acknowledged",
    "rollforward.cut",
    "rollforward.rollback",
    "rollback.begun",
    "rollback.recorded",
    "checkpoint.cloning",
    "checkpoint.cloned",
    "checkpoint.writing",
    "checkpoint.written",
    "checkpoint.fsynced",
    "checkpoint.renaming",
    "checkpoint.renamed",
    "checkpoint.durable",
    "checkpoint.deleting",
    "checkpoint.deleted",
)


def unarmed(name: str) -> None:
    """The failpoint of every run that is not a test."""
