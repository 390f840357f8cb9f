"""The table: what must hold, what was measured.

python -m benchmarks.soak [--only r1,r3] [--dose small|full] [--seed S] [--json]
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.report import machine, note, parser
from benchmarks.soak import endtxn, erasure, fresh, kills, long, mixed, network, programs, zombies
from benchmarks.soak.nursery import Nursery
from benchmarks.soak.row import Ground, Program, Row
from stream_mtl.kafka.server import fetch_jars, require_java
from workers.broker import jars_folder

PROGRAMS: dict[str, Program] = {
    "r1": kills.run,
    "r2": zombies.run,
    "r3": endtxn.run,
    "r4": network.run,
    "r5": programs.disk,
    "r6": programs.state_size,
    "r7": long.run,
    "s": programs.attacks,
    "e": erasure.run,
    "f": fresh.run,
    "fuzz": programs.fuzzers,
    "mixed": mixed.run,
}


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--only", default=",".join(PROGRAMS), help="r1,r2,...")
    arguments.add_argument("--dose", choices=("small", "full"), default="small")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--keep", type=Path, help="leave topics, folders and logs here")
    given = arguments.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    logging.getLogger("stream_mtl.kafka").setLevel(logging.CRITICAL)  # brokers are away on purpose
    require_java()
    jars = fetch_jars(jars_folder())
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch, Nursery() as nursery:
        ground = Ground(given.keep or Path(scratch), jars, nursery, given.dose, given.seed)
        for name in given.only.split(","):
            began = time.monotonic()
            note(f"{name}: {given.dose} dose, seed {given.seed}")
            for row in PROGRAMS[name](ground):
                told = replace(row, seconds=round(time.monotonic() - began, 1))
                rows.append(told)
                show(told, given.json)
    if not given.json:
        print(f"machine: {machine()}")
    short = [row for row in rows if row.holds is False]
    if short:
        note(f"{len(short)} rows do not hold; run again with --seed {given.seed}")
    return int(bool(short))


def show(row: Row, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(row) | {"machine": machine()}), flush=True)
        return
    verdict = {True: "holds", False: "SHORT", None: ""}[row.holds]
    print(
        f"{row.id:<4} | {row.must_hold:<58} | {row.measured:<48} | {verdict} ({row.seconds:.0f} s)",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
