"""What a test arms through the environment: a place where the process kills itself, as `kill -9` would, and
a diary of the sink's calls.
"""

from __future__ import annotations

import json
import os
import signal
import time

from stream_mtl.errors import ConfigError
from stream_mtl.failpoints import FAILPOINTS, Failpoint, unarmed
from stream_mtl.kafka.calls import Outcome, Recorder, unrecorded

VARIABLE = "STREAM_MTL_FAILPOINT"
CALLS_VARIABLE = "STREAM_MTL_CALLS"


def armed(setting: str) -> Failpoint:
    """`name` or `name:count`, the count-th hit of the process; an empty setting arms nothing."""
    if not setting:
        return unarmed
    target, _, count = setting.partition(":")
    if target not in FAILPOINTS or not (count or "1").isdecimal():
        raise ConfigError(
            f"{VARIABLE}={setting!r}: expected NAME or NAME:COUNT, with NAME one of {', '.join(FAILPOINTS)}"
        )
    left = int(count or "1")

    def hit(name: str) -> None:
        nonlocal left
        if name != target:
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return hit


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
