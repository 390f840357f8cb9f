"""R4: the broker dies and comes back; the network parts, loses packets, cuts connections. The worker stays.

The worker reaches the broker through a proxy, we and the producer of events reach it directly. After each fault the
time from healing to the next confirmed commit is measured; the same process must live through all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from benchmarks.report import note
from benchmarks.soak.nursery import Child
from benchmarks.soak.proxy import COORDINATOR, END_TXN, Proxy, until
from benchmarks.soak.row import Ground, Row, Times, fails_p, holds_p
from benchmarks.soak.shop import Feeder
from benchmarks.soak.stage import Stage, await_it
from benchmarks.soak.zombies import leave
from stream_mtl.kafka.server import KafkaServer

RECOVERY_S = 30.0
_TIMEOUT_MS = 5_000
_RATE = 80.0
Heal = Callable[[], None]


def run(ground: Ground) -> Iterator[Row]:
    with Proxy(0) as proxy, ground.broker("r4", advertise=proxy.port) as server:
        proxy.target = server.behind
        stage = Stage(
            ground.nursery,
            server.bootstrap,
            ground.folder / "r4",
            through=proxy.bootstrap,
            transaction_timeout_ms=_TIMEOUT_MS,
        )
        yield from _ours(stage, server, proxy, ground)
        naive = replace(stage, folder=ground.folder / "r4-naive")
        yield _naive(naive, proxy, ground)
    yield from _loss(ground)


def _ours(stage: Stage, server: KafkaServer, proxy: Proxy, ground: Ground) -> Iterator[Row]:
    rng = np.random.default_rng(ground.seed)
    parted_s = float(ground.dose(6, 30))
    rounds: list[tuple[str, int, Callable[[], float]]] = [
        ("broker kills", ground.dose(1, 20), lambda: _kill_broker(server, rng)),
        ("partitions", ground.dose(3, 20), Partitions(proxy, parted_s)),
        ("coordinator-only partitions", ground.dose(1, 5), lambda: _coordinator(proxy, parted_s)),
        ("lost answers to EndTxn", ground.dose(1, 10), lambda: _lost_answers(proxy)),
        ("connections reset", ground.dose(1, 10), lambda: _cut(proxy)),
    ]
    with Feeder(stage.config(), _RATE, ground.seed, backlog=120) as feeder:
        worker = stage.start()
        stage.await_commit(0.0, worker)
        for what, count, fault in rounds:
            times, caught_up = _recoveries(stage, feeder, worker, count, fault, what)
            measured = f"slowest {times.worst:.1f} s of {count}; new events read after {caught_up.worst:.1f} s"
            holds = ground.prompt(times.worst, RECOVERY_S)
            yield Row("R4", f"{what}: commits within 30 s of healing", measured, holds)
        alive = worker.poll() is None
        leave(worker)
    yield Row("R4", "no restart of the worker", "one process" if alive else "it ended", alive)
    stage.finish()
    yield holds_p("R4", "all of these", stage.look())


def _recoveries(
    stage: Stage,
    feeder: Feeder,
    worker: Child,
    count: int,
    fault: Callable[[], float],
    what: str,
) -> tuple[Times, Times]:
    """From healing to the first commit, and to the commit of all that was written until healing: a dead
    connection of the consumer would show in the second alone.
    """
    times, caught_up = Times(), Times()
    for turn in range(count):
        time.sleep(0.5)
        healed = fault()
        call = stage.await_commit(healed, worker, within_s=300.0)
        times.add(max(0.0, call.at - healed))
        written = feeder.written
        await_it(lambda: True if feeder.read() >= written else None, 300.0)  # noqa: B023
        caught_up.add(time.time() - healed)
        note(
            f"  R4: {what} {turn + 1}/{count}: commit {times.taken[-1]:.1f} s after healing, all read after"
            f" {caught_up.taken[-1]:.1f} s"
        )
    return times, caught_up


def _kill_broker(server: KafkaServer, rng: np.random.Generator) -> float:
    server.kill()
    time.sleep(float(rng.uniform(0.0, 3.0)))
    server.start()
    return time.time()


class Partitions:
    """One after the other in every way: connections go on, are reset, or stay open and dead."""

    def __init__(self, proxy: Proxy, seconds: float) -> None:
        self._proxy, self._seconds, self._turn = proxy, seconds, 0

    def __call__(self) -> float:
        how = ("go on", "half-open", "reset")[self._turn % 3]
        self._proxy.freeze(refuse=how == "reset")
        self._turn += 1
        time.sleep(self._seconds)
        self._proxy.thaw(how)  # type: ignore[arg-type]  # one of its words
        return time.time()


def _coordinator(proxy: Proxy, seconds: float) -> float:
    proxy.freeze(lambda keys: bool(keys & COORDINATOR))
    time.sleep(seconds)
    proxy.thaw()
    return time.time()


def _lost_answers(proxy: Proxy) -> float:
    proxy.drop_answers(END_TXN, 2)
    time.sleep(1.0)
    proxy.drop_answers(END_TXN, 0)
    return time.time()


def _cut(proxy: Proxy) -> float:
    proxy.cut()
    return time.time()


def _naive(stage: Stage, proxy: Proxy, ground: Ground) -> Row:
    """The commit lands, its answer and those to the client's retries are lost until the application gives up."""
    with Feeder(stage.config(), _RATE, ground.seed, backlog=120):
        worker = stage.start(naive="forgetful")
        stage.await_commit(0.0, worker)
        proxy.drop_answers(END_TXN, 1_000)
        until(lambda: any(c.outcome == "indeterminate" for c in stage.calls()), 120.0)
        proxy.drop_answers(END_TXN, 0)
        stage.await_commit(time.time(), worker, within_s=300.0)
        leave(worker)
    violations = stage.look(complete=False)
    kinds = {"cut twice", "score doubled"}
    return fails_p("R4", "an open outcome is not looked up in the ledger", violations, kinds)


# ---- packet loss


def _loss(ground: Ground) -> Iterator[Row]:
    """24 % of the worker's packets lost: by iptables in a network of its own where that works."""
    seconds = ground.dose(10, 600)
    here = [
        sys.executable,
        "-m",
        "benchmarks.soak.loss",
        str(ground.folder / "loss"),
        str(seconds),
        str(ground.seed),
        ground.size,
    ]
    if namespaces():
        ready = "ip link set lo up && exec " + " ".join(here)
        here = ["unshare", "-n", "sh", "-c", ready]
    done = subprocess.run(here, stdout=subprocess.PIPE, check=False, text=True)
    if done.returncode:
        yield Row("R4", "packet loss", f"the program failed: {done.returncode}", False)
        return
    for line in done.stdout.splitlines():
        yield Row(**json.loads(line))


def namespaces() -> bool:
    """May we make a network of our own, and drop packets in it at random?"""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "ip", "iptables"))):
        return False
    rule = "ip link set lo up && iptables -A INPUT -p tcp -m statistic --mode random --probability 0.24 -j DROP"
    tried = subprocess.run(["unshare", "-n", "sh", "-c", rule], capture_output=True, check=False)
    return tried.returncode == 0
