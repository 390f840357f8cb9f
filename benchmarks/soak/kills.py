"""R1: `kill -9` of the worker at random moments and at each failpoint, on one continuing log.

A kill between the commit that was sent and its acknowledgement has no failpoint: there the client waits. The
process is killed as soon as the diary says that the commit was invoked.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.report import note
from benchmarks.soak.nursery import Child
from benchmarks.soak.proxy import until
from benchmarks.soak.row import Ground, Row, fails_p, holds_p
from benchmarks.soak.shop import Feeder, fill
from benchmarks.soak.stage import Stage
from stream_mtl.failpoints import FAILPOINTS

_LONGEST_S = 4.0  # from a start to a random kill
_WAIT_S = 300.0  # for a failpoint to be reached
RARELY = "checkpoint.interval_s=3600"  # so that a roll-forward has cuts to fold

# A kill in the middle of the roll-forward needs cuts that no checkpoint holds: an earlier kill leaves them.
_LONG = ("rollforward.first", "rollforward.cut:3")
_COMMITS = {"commit.acknowledged", "commit.sent", "cut.frozen"}


def run(ground: Ground) -> Iterator[Row]:
    began = time.monotonic()
    with ground.broker("r1") as server:
        stage = Stage(ground.nursery, server.bootstrap, ground.folder / "r1")
        yield from _ours(stage, ground)
        yield Row("R1", "time taken", f"{time.monotonic() - began:.0f} s", None)
        naive = Stage(ground.nursery, server.bootstrap, ground.folder / "r1-naive")
        yield _naive(naive, ground)


def _ours(stage: Stage, ground: Ground) -> Iterator[Row]:
    rng = np.random.default_rng(ground.seed)
    rate = 150.0
    killed = 0
    hit: dict[str, int] = {}
    with Feeder(stage.config(), rate, ground.seed):
        while killed < ground.dose(4, 100):
            began = time.time()
            worker = stage.start()
            if killed % 2:  # every other one surely while it works, on however slow a machine
                stage.await_commit(began, worker)
            killed += kill_after(worker, float(rng.uniform(0.1, _LONGEST_S)))
        note(f"  R1: {killed} random kills")
        for _ in range(ground.dose(1, 3)):
            for name in _failpoints(ground):
                hit[name] = hit.get(name, 0) + die_at(stage, name, rng)
                note(f"  R1: {name} {'hit' if hit[name] else 'NOT REACHED'}")
            hit["in the commit"] = hit.get("in the commit", 0) + die_in_commit(stage)
    stage.finish()
    missed = sorted(name for name, times in hit.items() if not times)
    violations = stage.look()
    kills = f"{killed} random kills, {len(hit)} failpoints x {ground.dose(1, 3)}"
    yield holds_p("R1", kills, violations)
    yield Row("R1", "every failpoint reached", f"missed: {', '.join(missed) or 'none'}", not missed)
    yield Row("R1", "cuts, scores looked at", f"{stage.cut() + 1} cuts", None)


def _failpoints(ground: Ground) -> list[str]:
    """Every name but those of a rollback, which nobody asks for here (`test_control` does); in a small dose every
    fourth, since the seams of one step are near each other."""
    names = [*_LONG, *(name for name in FAILPOINTS if not name.startswith("roll"))]
    return names if ground.size == "full" else names[1::4]


def kill_after(worker: Child, seconds: float) -> bool:
    """`kill -9` after so long; False when the worker had ended by itself."""
    try:
        worker.wait(seconds)
    except subprocess.TimeoutExpired:
        worker.send_signal(signal.SIGKILL)
        worker.wait(120.0)
        return True
    return False


def die_at(stage: Stage, name: str, rng: np.random.Generator) -> bool:
    """One worker that kills itself there; was it reached?"""
    settings = []
    if name.startswith("rollforward"):
        _leave_cuts(stage)
    elif not name.startswith("checkpoint"):
        name += f":{int(rng.integers(1, 4))}"
    worker = stage.start(failpoint=name, settings=settings)
    try:
        return worker.wait(_WAIT_S) == -signal.SIGKILL
    except subprocess.TimeoutExpired:
        worker.send_signal(signal.SIGKILL)
        worker.wait(120.0)
        return False


def _leave_cuts(stage: Stage) -> None:
    """Some committed cuts that no checkpoint holds."""
    worker = stage.start(failpoint="commit.acknowledged:6", settings=[RARELY])
    worker.wait(_WAIT_S)


def die_in_commit(stage: Stage, tries: int = 25) -> bool:
    """Killed while the client waits for the answer to its commit; did one of the tries fall in between?"""
    for _ in range(tries):
        began = time.time()
        worker = stage.start()
        stage.await_commit(began, worker)
        until(lambda: _asks(stage), 60.0)
        worker.send_signal(signal.SIGKILL)
        worker.wait(120.0)
        if _asks(stage):
            return True
    return False


def _asks(stage: Stage) -> bool:
    """Is the diary's last line a commit without an answer? Its end alone is read: this is asked all the time."""
    with stage.diary.open("rb") as file:
        file.seek(max(0, stage.diary.stat().st_size - 512))
        last = file.read().splitlines()[-1]
    return b'"commit"' in last and b'"invoked"' in last


def _naive(stage: Stage, ground: Ground) -> Row:
    """Killed between its two transactions, the naive worker has lost the scores and dead letters of a cut."""
    fill(stage.config(), 600, ground.seed)
    for _ in range(2):
        worker = stage.start(naive="scores_apart", failpoint="commit.acknowledged:6")
        worker.wait(_WAIT_S)
    stage.finish(naive="scores_apart")
    violations = stage.look()
    kinds = {"score missing", "poison not dead-lettered"}
    return fails_p("R1", "scores apart from the offsets", violations, kinds)
