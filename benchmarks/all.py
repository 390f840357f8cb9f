"""Every figure of the README, one program after the other; the exit code says whether all hold.

python -m benchmarks.all [--json]
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.report import note, parser

PROGRAMS = (
    "startup",
    "crash",
    "forgetting",
    "river_tables",
    "movielens",
    "ladder",
    "throughput",
    "real_events",
    "memory",
    "shop_difficulty",
)


def main() -> int:
    given = parser(__doc__).parse_args()
    worst = 0
    for program in PROGRAMS:
        note(f"== {program}")
        command = [
            sys.executable,
            "-m",
            f"benchmarks.{program}",
            *(["--json"] if given.json else []),
        ]
        worst = max(worst, subprocess.run(command, check=False).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
