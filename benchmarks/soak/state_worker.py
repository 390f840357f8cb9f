"""A trainer in a process of its own whose diary tells what checkpoints cost it.

python -m benchmarks.soak.state_worker CONFIG.json DIARY.jsonl
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import IO, Any

from stream_mtl import Config, checkpoint_writer
from stream_mtl.checkpoint_fork import Forked, fork_save
from stream_mtl.cut import CutResult
from workers.observer import CheckpointFacts, CutFacts, Fact, Phase, Silent
from workers.startup import TrainerOptions
from workers.stop import Stop
from workers.trainer import run_trainer

_forks_cpu: deque[float] = deque()  # seconds of the calling thread, of forks not told of yet


def _timed_fork(*arguments: Any) -> Forked:
    """What a fork takes of the processor is told too: on a busy machine the rest of the pause is waiting."""
    began = time.thread_time()
    forked = fork_save(*arguments)
    _forks_cpu.append(time.thread_time() - began)
    return forked


class Diary(Silent):
    """One JSON line a phase, cut and checkpoint, with the machine's monotonic time."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def phase(self, name: Phase, **facts: Fact) -> None:
        if name != "rolling_forward":
            self._write("phase", name=name, **facts)

    def cut(self, result: CutResult, facts: CutFacts) -> None:
        self._write(
            "cut",
            cut=result.number,
            events=result.counts.get("events", 0),
            replayed=facts.replayed,
            step_s=facts.step_seconds,
            open_s=facts.open_seconds,
        )

    def checkpoint(self, facts: CheckpointFacts) -> None:
        self._write(
            "checkpoint",
            cut=facts.cut,
            failure=facts.failure,
            bytes=facts.size_bytes,
            pause_s=facts.snapshot_seconds,
            pause_cpu_s=0.0 if facts.failure == "busy" else _forks_cpu.popleft(),
            write_s=facts.write_seconds,
            fsync_s=facts.fsync_seconds,
        )

    def _write(self, kind: str, **said: Any) -> None:
        self._stream.write(json.dumps({"kind": kind, "at": time.monotonic(), **said}) + "\n")
        self._stream.flush()


def main() -> int:
    checkpoint_writer.fork_save = _timed_fork
    config = Config.model_validate_json(Path(sys.argv[1]).read_text())
    with Path(sys.argv[2]).open("a", encoding="utf-8") as stream, Stop() as stop:
        run_trainer(config, TrainerOptions(), stop, Diary(stream))
    return 0


if __name__ == "__main__":
    sys.exit(main())
