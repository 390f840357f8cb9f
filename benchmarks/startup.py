"""How long until a newcomer sees the first score?

Runs `stream-mtl demo` as a user does and reads its summary: seconds from the start of the process until a
subscriber holds the first list. With `--fresh` also the whole way on a machine that has nothing yet: a
clone of this repository in a temporary folder, an empty cache of packages, `make demo` there, all installs
included. What is not committed is not in the clone.

    python -m benchmarks.startup [--events 20000] [--runs 3] [--fresh] [--json]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Figure, note, parser, tell

FIRST_SCORE_S, FRESH_S = 30.0, 300.0
DEADLINE_S = 1_200.0
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Start:
    first_score_s: float
    whole_s: float  # of the demo, to the end of its events


def demo(events: int) -> Start:
    """One demo in a process of its own, output thrown away but for the summary."""
    command = [sys.executable, "-m", "workers.cli", "demo", "--events", str(events), "--json"]
    began = time.monotonic()
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        check=True, timeout=DEADLINE_S,
    )  # fmt: skip
    summary = json.loads(done.stdout)
    start = Start(float(summary["first_score_seconds"]), time.monotonic() - began)
    note(f"  {start}")
    return start


def fresh(events: int) -> float:
    """Seconds of clone and `make demo` with nothing installed and nothing cached."""
    with tempfile.TemporaryDirectory() as scratch:
        clone, caches = Path(scratch) / "clone", Path(scratch) / "caches"
        began = time.monotonic()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environment = {
            **os.environ,
            "XDG_CACHE_HOME": str(caches),
            "UV_CACHE_DIR": str(caches / "uv"),
        }
        environment |= {"PIP_CACHE_DIR": str(caches / "pip")}
        subprocess.run(
            ["make", "demo", f"EVENTS={events}"], cwd=clone, env=environment,
            stdout=subprocess.DEVNULL, check=True, timeout=DEADLINE_S,
        )  # fmt: skip
        return time.monotonic() - began


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--events", type=int, default=20_000)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--fresh", action="store_true", help="also clone, install and make demo")
    given = arguments.parse_args()
    starts = [demo(given.events) for _ in range(given.runs)]
    slowest = max(start.first_score_s for start in starts)
    quickest = min(start.first_score_s for start in starts)
    told = [
        Figure("first score, slowest of the runs, s", slowest, "<= 30", slowest <= FIRST_SCORE_S),
        Figure("first score, quickest of the runs, s", quickest, "reported", None),
        Figure("whole demo, last run, s", starts[-1].whole_s, "reported", None),
    ]
    if given.fresh:
        seconds = fresh(given.events)
        told.append(
            Figure("fresh clone to the end of make demo, s", seconds, "< 300", seconds < FRESH_S)
        )
    return tell(told, given.json)


if __name__ == "__main__":
    sys.exit(main())
