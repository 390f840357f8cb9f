"""Named places where a test may end the process. The library only calls; a worker decides what happens.

A failpoint is passed down as a callable, so the library reads no environment and the default costs
one empty call.
"""

from __future__ import annotations

from collections.abc import Callable

Failpoint = Callable[[str], None]

# In the order in which a run comes by: before and after each step that a crash may fall between.
FAILPOINTS = (
    "rollforward.first",
    "rollforward.cut",
    "rollforward.rollback",
    "cut.freezing",
    "cut.frozen",
    "step.starting",
    "step.done",
    "commit.beginning",
    "commit.begin",
    "commit.producing",
    "commit.produced",
    "commit.sending_offsets",
    "commit.offsets",
    "commit.flushing",
    "commit.flushed",
    "commit.sending",
    "commit.sent",
    "commit.acknowledged",
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
