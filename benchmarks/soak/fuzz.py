"""Fuzzing for a given time: records, checkpoints, ledger, settings, passwords; how many examples, how many crashes.

python -m benchmarks.soak.fuzz --minutes 10
"""

from __future__ import annotations

import sys
import time
import traceback

from hypothesis import HealthCheck, given, settings

from benchmarks.report import Figure, parser, tell
from tests.fuzzing import TARGETS, Target

_BATCH = 500  # examples between two looks at the clock


def fuzz(target: Target, seconds: float) -> tuple[int, str]:
    """Examples tried in this time, and the traceback of the smallest one that crashed."""
    tried = 0

    @settings(
        max_examples=_BATCH, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(target.strategy)
    def run(example: object) -> None:
        nonlocal tried
        tried += 1
        target.check(example)

    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            run()
        except Exception:
            return tried, traceback.format_exc()
    return tried, ""


def main() -> int:
    made = parser(__doc__)
    made.add_argument("--minutes", type=float, default=10.0, help="of all targets together")
    arguments = made.parse_args()
    share = arguments.minutes * 60 / len(TARGETS)
    figures, crashes, total = [], 0, 0
    for name, target in TARGETS.items():
        tried, crash = fuzz(target, share)
        total += tried
        crashes += bool(crash)
        if crash:
            print(f"{name}:\n{crash}", file=sys.stderr)
        figures.append(
            Figure(f"fuzz: {name}", f"{tried} examples", "", None if not crash else False)
        )
    said = f"{crashes} crashes in {total} examples"
    figures.append(Figure("S: fuzzers without a crash", said, "0", crashes == 0))
    return tell(figures, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
