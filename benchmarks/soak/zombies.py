"""R2: a worker that stands still while another takes its job over, and then wakes; the same job started twice.

A zombie is frozen (SIGSTOP) at a random moment or at a failpoint, the middle of a checkpoint write among them, for
longer than the transaction's time-out. Another worker takes over from another folder and commits. Woken, the
zombie must end with code 76 within 5 s, without a record and without deleting a checkpoint.
"""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.report import note
from benchmarks.soak.kills import RARELY
from benchmarks.soak.naive import PRUNING
from benchmarks.soak.nursery import Child
from benchmarks.soak.proxy import until
from benchmarks.soak.row import Ground, Row, Times, holds_p
from benchmarks.soak.shop import Feeder, fill
from benchmarks.soak.stage import Stage, await_it
from stream_mtl.kafka.ledger_log import read_ledger

FENCED = 76
PROMPT_S = 5.0  # from waking to the end
_TIMEOUT_MS = 2_000  # of a transaction: a short one, so that standing still beyond it is cheap
_RATE = 120.0
_APART_S = 4.0  # half of a slow roll-forward
_HOUR_MS = 3_600_000  # a clock ahead makes the last commit an old one
_PING_PONG = 4  # times the job was taken: two at the start, then each takes it back

# Where a zombie is frozen; "" is a random moment.
PLACES = (
    "",
    "commit.offsets:4",
    "checkpoint.written",
    "",
    "commit.sending:3",
    "step.done:3",
    "checkpoint.renaming",
    "cut.freezing:5",
    "commit.acknowledged:3",
    "commit.beginning:4",
)


@dataclass
class Tally:
    """What the zombies of one stage did after waking."""

    ground: Ground
    woken: int = 0
    records: int = 0
    deletions: int = 0
    codes: list[int] = field(default_factory=list)
    ends: Times = field(default_factory=Times)

    @property
    def holds(self) -> bool:
        right = all(code == FENCED for code in self.codes) and len(self.codes) == self.woken
        prompt = self.ground.prompt(self.ends.worst, PROMPT_S)
        return right and not self.records + self.deletions and prompt

    def __str__(self) -> str:
        codes = sorted(set(self.codes))
        return (
            f"{self.records} records, {self.deletions} deletions, exit {codes},"
            f" slowest {self.ends.worst:.1f} s"
        )


def run(ground: Ground) -> Iterator[Row]:
    with ground.broker("r2") as server:
        stage = _stage(ground, server.bootstrap, "r2")
        with Feeder(stage.config(), _RATE, ground.seed):
            count = ground.dose(3, 20)
            tally, survivor = zombies(stage, ground, count, ground.size == "small")
            yield Row("R2", f"{count} zombies: none acts, 76 in 5 s", str(tally), tally.holds)
            yield doubles(stage, survivor, ground.dose(2, 20))
            leave(survivor)
        stage.finish(state="a")
        yield holds_p("R2", "zombies and double starts", stage.look())
        yield idle(_stage(ground, server.bootstrap, "r2-idle"), ground)
        yield from supervised(ground, server.bootstrap)
        yield from restoring(ground, server.bootstrap)
        yield _naive_deletion(_stage(ground, server.bootstrap, "r2-naive"), ground)


def _stage(ground: Ground, bootstrap: str, name: str) -> Stage:
    return Stage(
        ground.nursery, bootstrap, ground.folder / name, transaction_timeout_ms=_TIMEOUT_MS
    )


def zombies(
    stage: Stage,
    ground: Ground,
    count: int,
    few: bool,
    naive: str = "",
    places: tuple[str, ...] = PLACES,
) -> tuple[Tally, Child]:
    """One zombie after the other; each successor is the next zombie. Gives the last survivor too."""
    rng = np.random.default_rng(ground.seed)
    tally = Tally(ground)
    order = [place for place in places if place] if few else list(places)
    folders = ("a", "b")
    current = stage.start(state="a", naive=naive, failpoint=_frozen_at(order[0]))
    for turn in range(count):
        place = order[turn % len(order)]
        freeze(stage, current, place, float(rng.uniform(0.0, 1.0)))
        frozen = time.time()
        following = order[(turn + 1) % len(order)] if turn + 1 < count else ""
        heir = stage.start(
            "--take-over",
            state=folders[(turn + 1) % 2],
            naive=naive,
            failpoint=_frozen_at(following),
        )
        stage.await_commit(frozen, heir)  # which may already stand still at its own failpoint
        time.sleep(max(0.0, frozen + _TIMEOUT_MS / 1_000 - time.time()))
        wake(stage, current, folders[turn % 2], tally)
        note(f"  R2: zombie {turn + 1} at {place or 'random'}: {tally}")
        current = heir
    return tally, current


def _frozen_at(place: str) -> str:
    return f"{place}:stop" if place else ""


def freeze(stage: Stage, worker: Child, place: str, delay_s: float) -> None:
    """Waits until the worker has stopped itself, or stops it some time after a commit."""
    if not place:
        stage.await_commit(time.time(), worker)
        time.sleep(delay_s)
        worker.send_signal(signal.SIGSTOP)
    await_it(lambda: _stopped(worker.pid) or None, 300.0, lambda: stage.alive(worker))


def _stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def wake(stage: Stage, zombie: Child, folder: str, tally: Tally) -> None:
    """SIGCONT, and what it does from then on until it ends."""
    before = _names(stage, folder)
    cut = stage.cut()
    instance = _instance(stage, folder)
    woken = time.monotonic()
    tally.woken += 1
    zombie.send_signal(signal.SIGCONT)
    try:
        tally.codes.append(zombie.wait(120.0))
    except subprocess.TimeoutExpired:
        zombie.send_signal(signal.SIGKILL)
        tally.codes.append(zombie.wait(120.0))
    tally.ends.add(time.monotonic() - woken)
    tally.deletions += len(before - _names(stage, folder))
    tally.records += sum(by == instance for by in _instances(stage, cut))


def _names(stage: Stage, folder: str) -> set[str]:
    checkpoints = stage.folder / folder / "checkpoints"
    return {path.name for path in checkpoints.iterdir() if path.name.startswith("ck1-")}


def _instance(stage: Stage, folder: str) -> str:
    return (stage.folder / folder / "instance").read_text().strip()


def _instances(stage: Stage, after_cut: int = -1) -> list[str]:
    """Who committed each cut after that one."""
    records = (json.loads(raw) for _, raw in read_ledger(stage.config()))
    return [one["instance"] for one in records if one["cut"] > after_cut]


def doubles(stage: Stage, first: Child, count: int) -> Row:
    """The same job again, in turn from the folder of the first (`a` or `b`, by turns) and from another one."""
    codes, slowest = [], Times()
    busy = stage.folders[0].name if _locked(stage.folders[0]) else "b"
    for turn in range(count):
        began = time.monotonic()
        second = stage.start(state=busy if turn % 2 == 0 else f"other{turn}")
        codes.append(second.wait(300.0))
        slowest.add(time.monotonic() - began)
    alive = first.poll() is None
    stage.await_commit(time.time(), first)
    measured = (
        f"exit {sorted(set(codes))}, slowest {slowest.worst:.1f} s, the first goes on: {alive}"
    )
    holds = alive and set(codes) == {FENCED}
    return Row("R2", f"{count} double starts: the second ends with 76", measured, holds)


def _locked(folder: Path) -> bool:
    import fcntl

    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def leave(worker: Child) -> None:
    """In order, as at a shutdown."""
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120.0) == 0


def idle(stage: Stage, ground: Ground) -> Row:
    """A zombie without input has nothing to commit that would be refused; it must notice all the same."""
    fill(stage.config(), 200, ground.seed)
    began = time.time()
    first = stage.start(state="a")
    stage.await_commit(began, first)
    settled = await_it(lambda: _settled(stage), 120.0)
    first.send_signal(signal.SIGSTOP)
    time.sleep(_TIMEOUT_MS / 1_000 + 0.5)
    heir = stage.start("--take-over", state="b")
    calls = len(stage.calls())
    await_it(lambda: _opened(stage, calls), 120.0)
    tally = Tally(ground)
    wake(stage, first, "a", tally)
    leave(heir)
    assert stage.cut() >= settled
    return Row("R2", "an idle zombie: 76 in 5 s", str(tally), tally.holds)


def _settled(stage: Stage) -> int | None:
    """The last cut, once nothing has come for a second."""
    cut = stage.cut()
    time.sleep(1.0)
    return cut if cut >= 0 and stage.cut() == cut else None


def _opened(stage: Stage, calls: int) -> bool | None:
    later = stage.calls()[calls:]
    return True if any(c.call == "init" and c.outcome == "ok" for c in later) else None


def supervised(ground: Ground, bootstrap: str) -> Iterator[Row]:
    """Two copies, each started again whenever it ends: ours settle on one, the naive ones fence each other."""
    for naive in ("", "no_two_instances"):
        stage = _stage(ground, bootstrap, f"r2-supervised{naive and '-naive'}")
        taken, changes, cuts = copies(stage, ground, naive, ground.dose(12, 60))
        measured = f"{taken} times the job was taken, {changes} changes of owner, {cuts} cuts"
        if naive:
            yield Row("R2", "naive (no two-instances rule) fails", measured, taken >= _PING_PONG)
        else:
            settled = taken <= 2 and changes <= 1 and cuts > 5  # both may start at the same moment
            yield Row("R2", "two supervised copies: one makes progress", measured, settled)


def restoring(ground: Ground, bootstrap: str) -> Iterator[Row]:
    """Two copies start after a silence and have much to fold again, the second when the first is half through:
    neither has a commit to show.
    """
    # The naive one restores for longer than the other needs to start, on a crowded machine too.
    for naive in ("slow_fold", "slower_fold+no_claims"):
        stage = _stage(ground, bootstrap, f"r2-{naive.replace('+', '-')}")
        fill(stage.config(), 900, ground.seed)
        worker = stage.start(state="a", failpoint="commit.acknowledged:16", settings=[RARELY])
        worker.wait(600.0)
        before = _taken(stage)
        later = "no_claims" in naive
        taken, changes, _ = copies(
            stage,
            ground,
            naive,
            ground.dose(15, 60),
            ahead_ms=_HOUR_MS,
            naive_loops=later,
            apart_s=2 * _APART_S if later else _APART_S,
        )
        measured = f"{taken - before} times the job was taken, {changes} changes of owner"
        if later:
            yield Row(
                "R2",
                "naive (claims nothing while it restores) fails",
                measured,
                taken - before >= _PING_PONG,
            )
        else:
            yield Row(
                "R2",
                "two copies with a long roll-forward: one gets there",
                measured,
                taken - before <= 2,
            )


def copies(
    stage: Stage,
    ground: Ground,
    naive: str,
    seconds: int,
    ahead_ms: int = 0,
    naive_loops: bool | None = None,
    apart_s: float = 0.0,
) -> tuple[int, int, int]:
    """How often a worker took the job, changes of owner in the ledger, and cuts, in that time from the first
    commit on; the naive ones are watched until they have fenced each other often enough, at most 10 minutes.
    """
    over = threading.Event()
    before = _taken(stage)
    loops = bool(naive) if naive_loops is None else naive_loops

    def supervise(state: str) -> None:
        if apart_s and state == "b":
            until(lambda: _taken(stage) > before or over.is_set(), 120.0)
            over.wait(apart_s)
        while not over.is_set():
            worker = stage.start(state=state, naive=naive, clock_ms=ahead_ms)
            while worker.poll() is None and not over.wait(0.05):
                pass
            if worker.poll() is None:
                worker.send_signal(signal.SIGKILL)
                worker.wait(120.0)
            over.wait(0.3)

    with Feeder(stage.config(), _RATE, ground.seed):
        begun = stage.cut()
        threads = [threading.Thread(target=supervise, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        try:
            if loops:
                await_it(lambda: True if _taken(stage) - before >= _PING_PONG else None, 600.0)
            else:
                await_it(lambda: True if stage.cut() > begun else None, 300.0)
                time.sleep(seconds)
                await_it(lambda: True if stage.cut() > begun + 5 else None, 300.0)
        except TimeoutError:
            note("  R2: the supervised copies came to nothing in time")
        finally:
            over.set()
            for thread in threads:
                thread.join()
    owners = _instances(stage)
    changes = sum(one != other for one, other in pairwise(owners))
    return _taken(stage), changes, len(owners)


def _taken(stage: Stage) -> int:
    """How many processes got a producer, and so fenced whoever had one."""
    return len({c.by for c in stage.calls() if c.call == "init" and c.outcome == "ok"})


def _naive_deletion(stage: Stage, ground: Ground) -> Row:
    """Frozen before its commit, the naive worker deletes what its successor may need when it wakes."""
    with Feeder(stage.config(), _RATE, ground.seed):
        tally, survivor = zombies(
            stage, ground, 1, few=False, naive="prune_first", places=(PRUNING,)
        )
        survivor.send_signal(signal.SIGKILL)
        survivor.wait(120.0)
    return Row(
        "R2", "naive (deletes without a later commit) fails", str(tally), tally.deletions > 0
    )
