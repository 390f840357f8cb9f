"""Arms one failpoint from the environment: the process kills itself there, as `kill -9` would."""

from __future__ import annotations

import os
import signal

from stream_mtl.errors import ConfigError
from stream_mtl.failpoints import FAILPOINTS, Failpoint, unarmed

VARIABLE = "STREAM_MTL_FAILPOINT"


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
