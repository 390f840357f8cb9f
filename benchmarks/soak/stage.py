"""One app on one broker for a fault to play on: its config, its workers, their folders, the diary of calls."""

from __future__ import annotations

import dataclasses
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.soak.checker import Violation, judge
from benchmarks.soak.history import Call
from benchmarks.soak.look import look, read_calls
from benchmarks.soak.nursery import Child, Nursery
from stream_mtl import Config
from stream_mtl.kafka.ledger_log import last_record
from stream_mtl.ledger import Entry, decode

# A small model, small cuts: the faults are in the seams between cuts, and every fold is done twice.
SMALL: dict[str, Any] = {
    "cut": {"max_records": 40, "interval_ms": 100},
    "model": {"experts": 2, "hidden": 16},
    "features": {"table_rows": 4096},
    "memory": {"rows": 512},
    "metrics": {"address": "off"},
    "checkpoint": {"interval_s": 1, "keep": 2, "keep_hours": 0},
    "dlq": {"breaker_share": 0.9},
    "scoring": {"candidates": 20, "published": 5, "quiet_users": 0},
    "evaluation": {"probe_every": 100_000},
    "drift": {"on": False},
    "rehearsal": {"loss": "er", "ratio": 0.25},
    "retrieval": {"learned": False},
}
T = TypeVar("T")
_BOUND_S = 300.0  # of anything that a healthy worker does at once


@dataclasses.dataclass
class Stage:
    """`bootstrap` is where we look from; a worker may be given another address (a proxy)."""

    nursery: Nursery
    bootstrap: str
    folder: Path
    through: str = ""  # the workers' bootstrap, when it is not ours
    transaction_timeout_ms: int = 10_000

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        app = f"soak{uuid.uuid4().hex[:8]}"
        names = ("items", "control", "acks", "scores", "dlq", "ledger")
        topics = {"events": [f"{app}.events"], **{name: f"{app}.{name}" for name in names}}
        self.given = {"app": app, "topics": {**topics, "partitions": 2}, **SMALL}
        self.log, self.diary = self.folder / "worker.log", self.folder / "calls.jsonl"
        self.folders: list[Path] = []
        self.restarts = 0

    def config(self, bootstrap: str = "", state: Path | None = None) -> Config:
        kafka = {
            "bootstrap": bootstrap or self.bootstrap,
            "transaction_timeout_ms": self.transaction_timeout_ms,
        }
        where = str(state or self.folder / "state")
        return Config.model_validate({**self.given, "kafka": kafka, "state": where})

    def start(
        self,
        *options: str,
        state: str = "state",
        failpoint: str = "",
        naive: str = "",
        settings: Sequence[str] = (),
        clock_ms: int = 0,
    ) -> Child:
        """A worker of this app in its own process; `state` names its folder, its clock is that much ahead."""
        place = self.folder / state
        if place not in self.folders:
            self.folders.append(place)
        file = self.folder / f"{state}.json.yaml"  # JSON is YAML
        file.write_text(self.config(self.through, place).model_dump_json(exclude_unset=True))
        self.restarts += 1
        more = [word for setting in settings for word in ("--set", setting)]
        return self.nursery.start(
            ["run", "trainer", "--json", "-c", str(file), *options, *more],
            {
                "STREAM_MTL_FAILPOINT": failpoint,
                "STREAM_MTL_CALLS": str(self.diary),
                "SOAK_NAIVE": naive,
                "SOAK_CLOCK_MS": str(clock_ms),
            },
            out=self.folder / f"out-{self.restarts}.json",
            log=self.log,
        )

    def finish(self, state: str = "state", naive: str = "") -> None:
        """A worker without a fault reads to the end of the input and leaves in order, whoever worked before."""
        worker = self.start("--until-idle", "--take-over", state=state, naive=naive)
        try:
            code = worker.wait(_BOUND_S)
        except subprocess.TimeoutExpired:
            worker.send_signal(9)
            raise
        assert code == 0, f"exit {code}: {self.tail()}"

    def look(self, complete: bool = True, fold: bool = True) -> tuple[Violation, ...]:
        """What the checker finds now."""
        return judge(look(self.config(), self.folders, self.diary, complete, fold))

    def last(self) -> Entry | None:
        """The newest committed ledger record."""
        found = last_record(self.config())
        return decode(found[1], found[0]) if found else None

    def cut(self) -> int:
        last = self.last()
        return -1 if last is None else last.cut

    def calls(self) -> list[Call]:
        return read_calls(self.diary)

    def committed_after(self, at: float) -> Call | None:
        """The first commit of a cut that was confirmed after a wall time."""
        return next(
            (
                call
                for call in self.calls()
                if call.call == "commit" and call.outcome == "ok" and call.cut >= 0 and call.at > at
            ),
            None,
        )

    def await_commit(self, after: float, worker: Child, within_s: float = _BOUND_S) -> Call:
        """Wait for the first commit after a wall time; the worker must live meanwhile."""
        return await_it(lambda: self.committed_after(after), within_s, lambda: self.alive(worker))

    def alive(self, worker: Child) -> None:
        """AssertionError with the end of its log where it has ended."""
        assert worker.poll() is None, f"the worker ended with {worker.poll()}: {self.tail()}"

    def tail(self) -> str:
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])


def await_it(
    look_for: Callable[[], T | None], within_s: float, meanwhile: Callable[[], None] = lambda: None
) -> T:
    """What `look_for` gives as soon as it gives something; TimeoutError after `within_s`."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = look_for()
        if found is not None:
            return found
        meanwhile()
        time.sleep(0.05)
    raise TimeoutError(f"nothing came within {within_s:.0f} s")
