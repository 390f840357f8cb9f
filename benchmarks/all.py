"""Every figure of the README, one program after the other; the exit code says whether all hold.

python -m benchmarks.all [--json]
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from benchmarks.report import note, parser

PROGRAMS = (
    "startup",
    "crash",
    "forgetting",
    "ladder",
    "throughput",
    "real_events",
    "memory",
    "shop_difficulty",
)


def run(programs: Sequence[str], as_json: bool) -> int:
    """Each in a process of its own; the worst exit code."""
    worst = 0
    for program in programs:
        note(f"== {program}")
        command = [sys.executable, "-m", f"benchmarks.{program}", *(["--json"] if as_json else [])]
        worst = max(worst, subprocess.run(command, check=False).returncode)
    return worst


def main() -> int:
    return run(PROGRAMS, parser(__doc__).parse_args().json)


if __name__ == "__main__":
    sys.exit(main())
