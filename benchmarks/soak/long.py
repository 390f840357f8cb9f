"""R7: a long live stream with 10 % poison. Does memory grow, do descriptors leak, does anything abort for no reason?"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.report import note
from benchmarks.soak.row import Ground, Row, fails_p, holds_p
from benchmarks.soak.shop import Feeder, fill
from benchmarks.soak.stage import Stage
from benchmarks.soak.zombies import leave

_RATE = 60.0  # what the worker keeps up with on a small machine
_EVERY_S = 1.0
_WARM = 1 / 3  # of the time: tables and memories fill up to their bounds
_GROWTH = 0.02
_NAIVE_CRASHES = 4


@dataclass(frozen=True)
class Sample:
    """A look at the process from outside."""

    at: float
    rss_bytes: int
    descriptors: int


def sample(pid: int) -> Sample:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(time.monotonic(), pages * os.sysconf("SC_PAGE_SIZE"), descriptors)


def growth(samples: list[Sample]) -> float:
    """Of RSS after the warm-up: the fitted line's end over its begin, less 1; a peak alone is no growth."""
    kept = samples[int(len(samples) * _WARM) :]
    at = np.array([one.at for one in kept])
    size = np.array([float(one.rss_bytes) for one in kept])
    slope, begin = np.polyfit(at - at[0], size, 1)
    return float(slope * (at[-1] - at[0]) / begin)


def run(ground: Ground) -> Iterator[Row]:
    seconds = ground.dose(30, 3_600)
    with ground.broker("r7") as server:
        stage = Stage(ground.nursery, server.bootstrap, ground.folder / "r7")
        with Feeder(stage.config(), _RATE, ground.seed, scenario="dirty"):
            worker = stage.start()
            stage.await_commit(0.0, worker)
            samples = []
            until = time.monotonic() + seconds
            while time.monotonic() < until and worker.poll() is None:
                samples.append(sample(worker.pid))
                time.sleep(_EVERY_S)
            note(f"  R7: {len(samples)} samples, {stage.cut() + 1} cuts")
            leave(worker)
        calls = stage.calls()
        stage.finish()
        yield holds_p("R7", f"{seconds} s with 10 % poison", stage.look())
        yield from _figures(samples, ground)
        amiss = sum(one.outcome in ("failed", "indeterminate") for one in calls)
        yield Row("R7", "calls that failed without a fault: 0", f"{amiss} calls", amiss == 0)
        naive = Stage(ground.nursery, server.bootstrap, ground.folder / "r7-naive")
        yield _naive(naive, ground)


def _figures(samples: list[Sample], ground: Ground) -> Iterator[Row]:
    grown = growth(samples)
    size = samples[-1].rss_bytes / 1e6
    judged = ground.size == "full"  # in half a minute the tables are still filling
    told = f"{100 * grown:+.2f} % of {size:.0f} MB"
    yield Row(
        "R7", "RSS growth after warm-up: at most 2 %", told, grown <= _GROWTH if judged else None
    )
    kept = [one.descriptors for one in samples[int(len(samples) * _WARM) :]]
    half = len(kept) // 2
    flat = max(kept[half:]) <= max(kept[:half]) + 2
    yield Row("R7", "open descriptors: flat", f"{min(kept)} to {max(kept)}", flat)


def _naive(stage: Stage, ground: Ground) -> Row:
    """Dead letters sent as they come, and crashes before a commit: they are there twice.

    Several crashes, since a cut may have no dead letter.
    """
    fill(stage.config(), 800, ground.seed)
    for _ in range(_NAIVE_CRASHES):
        worker = stage.start(naive="letters_apart", failpoint="commit.sending:3")
        assert worker.wait(120.0) == -signal.SIGKILL
    stage.finish(naive="letters_apart")
    kinds = {"poison dead-lettered twice"}
    return fails_p("R7", "dead letters outside the transaction", stage.look(), kinds)
