"""Faults and attacks that need no running worker beside them: each is a program of its own, run here for its figures.

R5 a disk, R6 the size of the state, S who attacks (poison, malicious files), E the fuzzers. They print a figure a
line as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

from benchmarks.report import note
from benchmarks.soak.row import Ground, Row


def disk(ground: Ground) -> Iterator[Row]:
    yield from figures("R5", "disk", ["--dose", ground.size])


def state_size(ground: Ground) -> Iterator[Row]:
    yield from figures("R6", "state_size", ["--dose", ground.size])


def attacks(ground: Ground) -> Iterator[Row]:
    events = ground.dose(3_000, 40_000)
    yield from figures("S", "malicious", [])
    yield from figures("S", "poisoning", ["--events", str(events), "--seed", str(ground.seed + 3)])


def fuzzers(ground: Ground) -> Iterator[Row]:
    yield from figures("E", "fuzz", ["--minutes", str(ground.dose(1, 10))])


def figures(id: str, program: str, arguments: Sequence[str]) -> Iterator[Row]:
    """The rows of a program's figures; one that says why when it ends without any."""
    command = [sys.executable, "-m", f"benchmarks.soak.{program}", "--json", *arguments]
    done = subprocess.run(
        command, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    for line in lines:
        told = json.loads(line)
        asked = f"{told['figure']}: {told['target']}" if told["target"] else told["figure"]
        yield Row(id, asked, str(told["measured"]), told["holds"])
    if not lines:
        note(done.stderr[-2_000:])
        yield Row(id, program, f"exit {done.returncode} without a figure", False)
