"""Arms one failpoint from the environment: the process kills itself there, as `kill -9` would.

And a poison for tests: the process dies when it folds a record that holds certain bytes.
"""

from __future__ import annotations

import os
import signal

from stream_mtl.cut import Cut, CutResult
from stream_mtl.errors import ConfigError
from stream_mtl.failpoints import FAILPOINTS, Failpoint, unarmed
from workers.ports import Model

VARIABLE = "STREAM_MTL_FAILPOINT"
POISON_VARIABLE = "STREAM_MTL_CRASH_ON"


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
