"""R6: what the size of the state costs: restarts, the pause of a checkpoint, throughput, transactions.

A real Apache Kafka, the simulated shop as a backlog in its topics, the trainer as a process of its own, with
an embedding table that makes its state as large as is asked. For each size

* a run with a checkpoint every `--interval` seconds. Its pauses; how long transactions were open; and the
  throughput lost: events a second in the half interval after each checkpoint began, against those in
  the half after that, so both are of one run, scaled to a checkpoint a minute.
* restarts at the roll-forward bound: the worker is killed (-9) when it has folded nine tenths of what makes
  the next checkpoint due, and started again; from the start of the process to its first commit.

    python -m benchmarks.soak.state_size [--dose small|full] [--sizes 20,200] [--seconds 60]
        [--interval 10] [--restarts 5] [--json]
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Figure, note, parser, tell
from stream_mtl import Config
from stream_mtl.kafka.produce import EventWriter
from stream_mtl.kafka.server import KafkaServer, fetch_jars, require_java
from stream_mtl.kafka.topics import ensure_topics
from stream_mtl.simulator import simulate
from workers.broker import jars_folder
from workers.simulate import to_topics

ROW_BYTES = 68  # of the table: 16 floats and the optimiser's one
OTHER_BYTES = 24_000_000  # the rest of the state, about
DEADLINE_S = 600.0
MINUTE_S = 60.0
Line = dict[str, Any]


@dataclass
class Measured:
    """Of one size, in seconds."""

    bytes: int = 0
    pauses: list[float] = field(default_factory=list)
    pauses_cpu: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    opened: list[float] = field(default_factory=list)
    lost_share: float = float("nan")
    pairs: int = 0
    first_commits: list[float] = field(default_factory=list)
    rolled: list[float] = field(default_factory=list)
    before: list[float] = field(default_factory=list)  # until the checkpoint is looked for
    loaded: list[float] = field(default_factory=list)  # from there until it is restored


class Shop:
    """One size: its topics, its state folder, its workers."""

    def __init__(self, bootstrap: str, folder: Path, megabytes: int, events: int) -> None:
        app = f"s{megabytes}"
        names = ("items", "control", "acks", "scores", "dlq", "ledger")
        rows = max(1_024, (megabytes * 1_000_000 - OTHER_BYTES) // ROW_BYTES)
        self._given: dict[str, Any] = {
            "app": app,
            "state": str(folder / app),
            "kafka": {"bootstrap": bootstrap},
            "topics": {"events": [f"{app}.events"], **{name: f"{app}.{name}" for name in names}},
            "features": {"table_rows": rows},
            "metrics": {"address": "off"},
            "cut": {"max_records": 200},
        }
        self._folder, self._number = folder, 0
        # as installed: bytecode is there from the second start on, and the first restart does not count
        cached = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
        self._environment = {**os.environ, **cached}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        config = self.config()
        ensure_topics(config, retention_ms=-1)
        writer = EventWriter(config)
        to_topics(simulate("steady", events, 3), config, writer)
        writer.flush()

    def config(self, **checkpoint: Any) -> Config:
        return Config.model_validate({**self._given, "checkpoint": checkpoint})

    @contextmanager
    def worker(
        self, config: Config
    ) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], list[Line]], float]]:
        """The process, how to read its diary, and when it was started."""
        self._number += 1
        file = self._folder / f"{config.app}-{self._number}.json"
        diary = file.with_suffix(".jsonl")
        file.write_text(config.model_dump_json())
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak.state_worker", str(file), str(diary)],
            env=self._environment,
        )
        try:
            yield process, lambda: _read(diary), began
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def measure(shop: Shop, seconds: float, interval_s: int, restarts: int) -> Measured:
    found = Measured()
    _steady(shop, found, seconds, interval_s)
    for _ in range(restarts + 1):
        _restart(shop, found)
    return found


def _steady(shop: Shop, found: Measured, seconds: float, interval_s: int) -> None:
    bounds = {"interval_s": interval_s, "max_fold_s": 1_000_000, "max_cuts": 1_000_000}
    with shop.worker(shop.config(**bounds)) as (process, diary, _):
        _await(process, lambda: any(_live(line) for line in diary()))
        began = time.monotonic()
        _await(process, lambda: time.monotonic() - began > seconds)
        lines = diary()
        process.send_signal(signal.SIGTERM)
        process.wait(DEADLINE_S)
    cuts = [line for line in lines if _live(line)]
    saved = [line for line in lines if line["kind"] == "checkpoint" and not line["failure"]]
    assert saved, "no checkpoint was written: give more --seconds"
    found.bytes = saved[-1]["bytes"]
    found.pauses = [line["pause_s"] for line in saved]
    found.pauses_cpu = [line["pause_cpu_s"] for line in saved]
    found.writes = [line["write_s"] + line["fsync_s"] for line in saved]
    found.opened = [line["open_s"] for line in cuts]
    lost = _lost(cuts, saved, interval_s)
    found.pairs = len(lost)
    found.lost_share = statistics.median(lost) / MINUTE_S if lost else float("nan")


def _lost(cuts: Sequence[Line], saved: Sequence[Line], interval_s: int) -> list[float]:
    """Seconds lost by each checkpoint: the half interval after it began, against the half after that."""
    at = {cut["cut"]: cut["at"] for cut in cuts}
    half, lost = interval_s / 2, []
    for line in saved:
        began = at.get(line["cut"])
        if began is None or began + interval_s > cuts[-1]["at"]:
            continue
        first, second = (_rate(cuts, began + half * n, began + half * (n + 1)) for n in (0, 1))
        lost.append(half * (1 - first / second))
    return lost


def _rate(cuts: Sequence[Line], start: float, stop: float) -> float:
    """Events a second; borders fall on cuts, so that none counts in part."""
    inside = [cut for cut in cuts if start <= cut["at"] < stop]
    if len(inside) < 2:
        return float("nan")
    events = sum(cut["events"] for cut in inside[1:])
    return float(events / (inside[-1]["at"] - inside[0]["at"]))


def _restart(shop: Shop, found: Measured) -> None:
    """Start, note the time to the first commit, fold up to the bound, kill. The first one starts from a stop."""
    config = shop.config()
    with shop.worker(config) as (process, diary, began):
        _await(process, lambda: any(_live(line) for line in diary()))
        lines = diary()
        first = next(line for line in lines if _live(line))
        replayed = [line for line in lines if line["kind"] == "cut" and line["replayed"]]
        if replayed:
            found.first_commits.append(first["at"] - began)
            found.rolled.append(sum(line["step_s"] for line in replayed))
            phases = {line["name"]: line["at"] for line in lines if line["kind"] == "phase"}
            found.before.append(phases["restoring"] - began)
            found.loaded.append(replayed[0]["at"] - replayed[0]["step_s"] - phases["restoring"])
        enough = 0.9 * config.checkpoint.max_fold_s
        _await(process, lambda: _since_checkpoint(diary()) >= enough)


def _since_checkpoint(lines: Sequence[Line]) -> float:
    """Seconds of folding after the newest durable checkpoint; none yet counts as nothing."""
    saved = [line["cut"] for line in lines if line["kind"] == "checkpoint" and not line["failure"]]
    newest = max(saved, default=None)
    if newest is None and any(line["kind"] == "cut" and line["replayed"] for line in lines):
        return 0.0
    live = (line for line in lines if _live(line))
    return float(sum(line["step_s"] for line in live if newest is None or line["cut"] > newest))


def _live(line: Line) -> bool:
    return bool(line["kind"] == "cut" and not line["replayed"])


def _await(process: subprocess.Popen[bytes], done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        assert process.poll() is None, f"the worker ended with {process.returncode}"
        assert time.monotonic() < deadline, "the worker took too long"
        time.sleep(0.1)


def _read(diary: Path) -> list[Line]:
    text = diary.read_text() if diary.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _p(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share)) if values else float("nan")


def figures(size: int, m: Measured) -> list[Figure]:
    """Targets are asked of 200 MB alone; the other sizes are reported."""
    asked = size == 200
    name = f"R6 {size} MB"
    ms = [1_000 * pause for pause in m.pauses]
    cpu = [1_000 * pause for pause in m.pauses_cpu]
    return [
        Figure(f"{name}: size of a checkpoint, MB", m.bytes / 1e6, "", None),
        Figure(f"{name}: pause of the step, ms: p50", _p(ms, 0.5), "", None),
        _asked(f"{name}: pause, ms: p99 of {len(ms)}", _p(ms, 0.99), 50.0, asked),
        Figure(f"{name}: pause, ms: max", max(ms), "", None),
        Figure(f"{name}: pause, ms of processor: p99", _p(cpu, 0.99), "", None),
        Figure(f"{name}: load of the machine", os.getloadavg()[0], "", None),
        Figure(f"{name}: written and synced in, s: p50", _p(m.writes, 0.5), "", None),
        _asked(f"{name}: throughput lost, of {m.pairs} pairs", m.lost_share, 0.05, asked),
        Figure(f"{name}: transaction open, ms: p50", 1_000 * _p(m.opened, 0.5), "flat", None),
        _asked(f"{name}: transaction open, ms: p99", 1_000 * _p(m.opened, 0.99), 500.0, True),
        Figure(f"{name}: start to first commit, s: p50", _p(m.first_commits, 0.5), "", None),
        _asked(
            f"{name}: first commit, s: p95 of {len(m.first_commits)}",
            _p(m.first_commits, 0.95),
            10.0,
            asked,
        ),
        Figure(f"{name}: of that until `restoring`, s: p50", _p(m.before, 0.5), "", None),
        Figure(f"{name}: of that loading, s: p50", _p(m.loaded, 0.5), "", None),
        Figure(f"{name}: of that rolling forward, s: p50", _p(m.rolled, 0.5), "", None),
    ]


def _asked(name: str, measured: float, most: float, asked: bool) -> Figure:
    target = f"<= {most:g}" if asked else ""
    return Figure(name, measured, target, measured <= most if asked else None)


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--dose", choices=("small", "full"), default="small")
    arguments.add_argument("--sizes", default="", help="of the state in MB, comma separated")
    arguments.add_argument("--seconds", type=float, default=0.0, help="of the steady run")
    arguments.add_argument("--interval", type=int, default=10)
    arguments.add_argument("--restarts", type=int, default=0)
    arguments.add_argument("--events", type=int, default=0, help="in the topics, a size")
    given = arguments.parse_args()
    full = given.dose == "full"
    sizes = [int(n) for n in (given.sizes or ("20,200,2000" if full else "20,200")).split(",")]
    seconds, restarts = (
        given.seconds or (300 if full else 45),
        given.restarts or (20 if full else 3),
    )
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    require_java()
    jars, told = fetch_jars(jars_folder()), []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with KafkaServer(folder / "kafka", jars=jars) as server:
            for size in sizes:
                events = given.events or int(2_000 * (seconds + 12 * restarts))
                note(f"{size} MB: {events} events, {seconds:.0f} s, {restarts} restarts")
                shop = Shop(server.bootstrap, folder, size, events)
                told += figures(size, measure(shop, seconds, given.interval, restarts))
    return tell(told, given.json)


if __name__ == "__main__":
    sys.exit(main())
