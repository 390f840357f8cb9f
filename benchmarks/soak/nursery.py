"""Starts worker processes fast: one process has imported everything and forks each worker from there.

Imports take most of a worker's start, and a soak starts hundreds. What is forked has no thread and no client yet;
from then on it is a worker of its own: own process group, own files, `kill -9` is the kernel's.

The nursery reads one JSON object a line (`arguments`, `environment`, `out`, `log`) and answers with `{"pid": N}`;
`{"ended": N, "code": C}` follows when a worker has ended (negative: the signal that ended it).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

_READY_S = 300.0  # imports on a busy machine
_IMPORTS = (
    "benchmarks.soak.naive",
    "stream_mtl.composition",
    "stream_mtl.kafka.plain_sink",
    "stream_mtl.kafka.sink",
    "stream_mtl.kafka.source",
    "stream_mtl.metrics",
    "workers.http",
    "workers.progress",
    "workers.trainer",
    "workers.verbs.run",
    "workers.watch",
)


class Child:
    """A worker that the nursery forked: enough of `subprocess.Popen` for a fault to work with."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = threading.Event()

    def told(self, code: int) -> None:
        """The nursery has collected it."""
        self.returncode = code
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; subprocess.TimeoutExpired when it still runs."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(f"worker {self.pid}", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # collected, and not yet told
                os.kill(self.pid, number)


class Nursery:
    """`with Nursery() as nursery: nursery.start(["run", "trainer", ...], {...}, out, log)`."""

    def __enter__(self) -> Nursery:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._children: dict[int, Child] = {}
        self._born: list[Child] = []
        self._news = threading.Condition()
        self._one_start = threading.Lock()
        self._listener = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._listener.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """No worker outlives the nursery: it kills those that still run."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def start(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        out: Path,
        log: Path,
    ) -> Child:
        """A new worker; its stdout replaces `out`, its stderr is appended to `log`."""
        asked = {
            "arguments": list(arguments),
            "environment": dict(environment),
            "out": str(out),
            "log": str(log),
        }
        assert self._process.stdin is not None
        with self._one_start, self._news:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
            if not self._news.wait_for(lambda: bool(self._born), _READY_S):
                raise TimeoutError("the nursery does not answer")
            return self._born.pop()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            with self._news:
                if "pid" in told:
                    child = self._children[told["pid"]] = Child(told["pid"])
                    self._born.append(child)
                    self._news.notify_all()
                else:
                    self._children.pop(told["ended"]).told(told["code"])


def _serve() -> int:
    """The nursery's own process. No thread may run here: a fork would take half of it along."""
    for module in _IMPORTS:
        importlib.import_module(module)
    alive: set[int] = set()
    buffer = b""
    while True:
        ready, _, _ = select.select([0], [], [], 0.02)
        if ready:
            chunk = os.read(0, 65_536)
            if not chunk:
                break
            buffer += chunk
        while b"\n" in buffer:
            line, _, buffer = buffer.partition(b"\n")
            pid = os.fork()
            if pid == 0:
                _be_a_worker(json.loads(line))
            alive.add(pid)
            _say({"pid": pid})
        _collect(alive)
    for pid in alive:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    return 0


def _be_a_worker(asked: Mapping[str, Any]) -> NoReturn:
    from benchmarks.soak.naive import apply, turn_clock
    from workers.cli import leave, run

    os.setpgid(0, 0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    out = os.open(asked["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((nothing, 0), (out, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.update(asked["environment"])
    apply(os.environ.get("SOAK_NAIVE", ""))
    turn_clock(int(os.environ.get("SOAK_CLOCK_MS", "0")))
    leave(run(asked["arguments"]))


def _collect(alive: set[int]) -> None:
    for pid in list(alive):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            alive.discard(pid)
            _say({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _say(told: Mapping[str, int]) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    sys.exit(_serve())
