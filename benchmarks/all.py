"""Every figure of the README in one table, one program after the other; the exit code says whether all hold.

python -m benchmarks.all [--json]
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.report import Figure, lines, machine, note, parser

WIDTH = 100  # of a figure's name: what is still to come is not known

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
    """Each in a process of its own, all figures in one table that grows; 1 when one does not hold or is missing."""
    worst = 0
    if not as_json:
        print(f"machine: {machine()}", flush=True)
    for program in programs:
        note(f"== {program}")
        command = [sys.executable, "-m", f"benchmarks.{program}", "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        figures = [Figure(**json.loads(line)) for line in done.stdout.splitlines()]
        if done.returncode and not any(figure.holds is False for figure in figures):
            figures.append(
                Figure("the program's own end", f"exit {done.returncode}", "exit 0", False)
            )
        named = [replace(figure, figure=f"{program}: {figure.figure}") for figure in figures]
        print("\n".join(lines(named, as_json, WIDTH)), flush=True)
        worst |= int(any(figure.holds is False for figure in named))
    return worst


def main() -> int:
    return run(PROGRAMS, parser(__doc__).parse_args().json)


if __name__ == "__main__":
    sys.exit(main())
