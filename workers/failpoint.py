"""What a test arms through the environment: a place where the process kills itself, as `kill -9` would; a
poison, of which the process dies when it folds it; and a diary of the sink's calls.
"""

from __future__ import annotations

import json
import os
import signal
import time
from typing import TYPE_CHECKING

from stream_mtl.cut import Cut, CutResult
from stream_mtl.errors import ConfigError
from stream_mtl.failpoints import FAILPOINTS, Failpoint, unarmed
from stream_mtl.kafka.calls import Outcome, Recorder, unrecorded

if TYPE_CHECKING:
    from workers.ports import Model

VARIABLE = "STREAM_MTL_FAILPOINT"
POISON_VARIABLE = "STREAM_MTL_CRASH_ON"
CALLS_VARIABLE = "STREAM_MTL_CALLS"


def armed(setting: str) -> Failpoint:
    """`NAME[:COUNT][:stop]`: the COUNT-th hit kills the process, or with `stop` freezes it as SIGSTOP does, until
    somebody wakes it. An empty setting arms nothing.
    """
    if not setting:
        return unarmed
    target, *given = setting.split(":")
    how = signal.SIGKILL
    if given and given[-1] == "stop":
        how = signal.SIGSTOP
        given.pop()
    count = given[0] if given else "1"
    if target not in FAILPOINTS or len(given) > 1 or not count.isdecimal():
        raise ConfigError(
            f"{VARIABLE}={setting!r}: expected NAME[:COUNT][:stop], with NAME one of {', '.join(FAILPOINTS)}"
        )
    left = int(count)

    def hit(name: str) -> None:
        nonlocal left
        if name != target:
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), how)

    return hit


def deadly(fold: Model, poison: bytes) -> Model:
    """The fold, but the process dies of a record whose value holds `poison`; of nothing when it is empty."""
    if not poison:
        return fold
    step = fold.step

    def step_or_die(cut: Cut) -> CutResult:
        for record in cut.records:
            place = (record.topic, record.partition, record.offset)
            if poison in (record.value or b"") and place not in cut.quarantined:
                os.kill(os.getpid(), signal.SIGKILL)
        return step(cut)

    fold.step = step_or_die  # type: ignore[method-assign]
    return fold


def recorder(path: str, incarnation: str) -> Recorder:
    """Appends one JSON line a call to the file at `path`; an empty path records nothing.

    A line is one write to a descriptor opened for appending, so it survives the death of the process and
    several workers may share a file. `at` is wall time in s, which processes have in common.
    """
    if not path:
        return unrecorded
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(call: str, outcome: Outcome, cut: int) -> None:
        told = {
            "call": call,
            "outcome": outcome.value,
            "cut": cut,
            "by": incarnation,
            "at": time.time(),
        }
        os.write(descriptor, json.dumps(told).encode() + b"\n")

    return note
