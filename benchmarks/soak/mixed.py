"""All faults together, drawn from a seed; a run that fails tells its seed and the shortest list that still fails."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.report import note
from benchmarks.soak.checker import Violation, summary
from benchmarks.soak.nursery import Child
from benchmarks.soak.proxy import END_TXN, Proxy
from benchmarks.soak.row import Ground, Row, holds_p
from benchmarks.soak.schedule import Planned, draw, shrink
from benchmarks.soak.shop import Feeder
from benchmarks.soak.stage import Stage
from stream_mtl.kafka.server import KafkaServer

FAULTS = ("kill the worker", "freeze the worker", "kill the broker", "part", "reset", "hold EndTxn")
_TIMEOUT_MS = 3_000
_FROZEN_S = 4.0
_RATE = 80.0
_TRIES = 3
_GIVEN_UP = (AssertionError, subprocess.TimeoutExpired)  # a worker may wait for a person
# Kafka on one node (4.3.1): killed between the acknowledgment of a commit and its markers, it is leader of nothing when
# it is back and its session ends, takes the partitions for deleted, and calls the transaction complete without markers.
_FORGOT = b"while trying to send transaction markers"


class Scene:
    """A worker that a supervisor starts again, a broker and a proxy: what a schedule plays on."""

    def __init__(self, stage: Stage, server: KafkaServer, proxy: Proxy, naive: str) -> None:
        self._stage, self._server, self._proxy, self._naive = stage, server, proxy, naive
        self._worker: Child | None = None
        self._started_at = 0.0

    def play(self, schedule: Sequence[Planned]) -> None:
        self._await_work()
        for planned in schedule:
            if self._naive:  # what it does wrong it does when it works; ours must bear faults while it starts too
                self._await_work()
            self._supervise(planned.after_s)
            note(f"    {planned.fault}")
            self._do(planned.fault)
        self._supervise(1.0)
        self.end()

    def end(self) -> None:
        if self._worker is not None:
            self._worker.send_signal(signal.SIGKILL)
            self._worker.wait(120.0)
            self._worker = None

    def _await_work(self) -> None:
        """Until the worker has committed a cut since it was started."""
        self._stage.await_commit(self._started_at, self._running())

    def _running(self) -> Child:
        if self._worker is None:
            self._started_at = time.time()
            self._worker = self._stage.start(naive=self._naive)
        return self._worker

    def _supervise(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            try:
                self._running().wait(left)
                self._worker = None
            except subprocess.TimeoutExpired:
                return

    def _do(self, fault: str) -> None:
        if fault == "kill the worker":
            self.end()
        elif fault == "freeze the worker" and self._worker is not None:
            self._worker.send_signal(signal.SIGSTOP)
            time.sleep(_FROZEN_S)
            self._worker.send_signal(signal.SIGCONT)
        elif fault == "kill the broker":
            self._server.kill()
            self._server.start()
        elif fault == "part":
            self._proxy.freeze()
            time.sleep(_FROZEN_S)
            self._proxy.thaw()
        elif fault == "reset":
            self._proxy.cut()
        elif fault == "hold EndTxn":
            self._proxy.hold(END_TXN, 1, "cut")
            time.sleep(1.0)
            self._proxy.pass_on()
            self._proxy.release()


def play(
    ground: Ground,
    server: KafkaServer,
    proxy: Proxy,
    name: str,
    schedule: Sequence[Planned],
    naive: str = "",
) -> tuple[Violation, ...]:
    """One schedule on a fresh app, then an undisturbed end, then the checker."""
    folder: Path = ground.folder / name
    stage = Stage(
        ground.nursery,
        server.bootstrap,
        folder,
        proxy.bootstrap,
        transaction_timeout_ms=_TIMEOUT_MS,
    )
    with Feeder(stage.config(), _RATE, ground.seed, backlog=250):
        scene = Scene(stage, server, proxy, naive)
        try:
            scene.play(schedule)
        finally:
            scene.end()
    stage.finish(naive=naive)
    return stage.look()


def played(
    ground: Ground, server: KafkaServer, proxy: Proxy, name: str, schedule: Sequence[Planned]
) -> tuple[Violation, ...]:
    """`play`, again where the broker has forgotten what it had acknowledged: that says nothing of the worker."""
    for attempt in range(_TRIES):
        before = server.log.stat().st_size
        try:
            violations = play(ground, server, proxy, f"{name}-{attempt}", schedule)
        except _GIVEN_UP:
            if attempt + 1 == _TRIES or not forgot(server, before):
                raise
        else:
            if not violations or not forgot(server, before):
                return violations
        note("    void: the broker came back without the markers of a commit it had acknowledged")
    return violations


def forgot(server: KafkaServer, before: int) -> bool:
    """Does its log say so, from this place on?"""
    return _FORGOT in server.log.read_bytes()[before:]


def run(ground: Ground) -> Iterator[Row]:
    with Proxy(0) as proxy, ground.broker("mixed", advertise=proxy.port) as server:
        proxy.target = server.behind
        for turn in range(ground.dose(1, 10)):
            seed = ground.seed + turn
            schedule = draw(seed, FAULTS, ground.dose(6, 15), 4.0)
            violations = played(ground, server, proxy, f"mixed{turn}", schedule)
            row = holds_p("MIX", f"{len(schedule)} faults from seed {seed}", violations)
            if violations:
                _tell_shortest(ground, server, proxy, schedule, seed)
            yield row
        if ground.size == "full":
            yield _naive(ground, server, proxy)


def _naive(ground: Ground, server: KafkaServer, proxy: Proxy) -> Row:
    """Scores apart from the offsets: kills lose scores, resets do not, so only kills should be left.

    The first ten cuts or so are the catalogue and lose nothing, so there are many kills.
    """
    schedule = draw(ground.seed, ("kill the worker", "kill the worker", "reset"), 16, 2.0)
    violations = play(ground, server, proxy, "mixed-naive", schedule, "scores_apart")
    left = (
        _tell_shortest(ground, server, proxy, schedule, ground.seed, "scores_apart")
        if violations
        else []
    )
    measured = f"{summary(violations)}; shortest list: {len(left)} of {len(schedule)} faults"
    return Row("MIX", "naive (scores apart from the offsets) fails", measured, bool(violations))


def _tell_shortest(
    ground: Ground,
    server: KafkaServer,
    proxy: Proxy,
    schedule: Sequence[Planned],
    seed: int,
    naive: str = "",
) -> list[Planned]:
    """The seed, and what is left of the schedule after leaving out what is not needed."""
    tries = 0

    def fails(some: Sequence[Planned]) -> bool:
        nonlocal tries
        tries += 1
        return bool(play(ground, server, proxy, f"shrink{naive}{seed}-{tries}", some, naive))

    left, runs = shrink(schedule, fails, ground.dose(4, 20))
    note(f"seed {seed} fails; the shortest failing list after {runs} further runs:")
    for planned in left:
        note(f"  after {planned.after_s} s: {planned.fault}")
    return left
