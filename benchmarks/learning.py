"""Methods beside their peers in one table, one program after the other; the exit code says whether every figure holds.

python -m benchmarks.learning [--json]
"""

from __future__ import annotations

import sys

from benchmarks.all import run
from benchmarks.report import parser

PROGRAMS = (
    "river_tables",
    "movielens",
    "digits",
    "delayed",
    "label_stop",
    "added_task",
    "balancer_toy",
    "balancer_cost",
    "model_cost",
    "model_quality",
    "methods_table",
    "balancer_shop",
    "losses_shop",
    "real_events",
    "online_retail",
    "label_efficiency",
    "drift_detectors",
    "item_index",
    "sharing",
)


def main() -> int:
    return run(PROGRAMS, parser(__doc__).parse_args().json)


if __name__ == "__main__":
    sys.exit(main())
