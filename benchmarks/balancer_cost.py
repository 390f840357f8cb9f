"""What a step costs with every balancer: the default MMoE, 512 fresh and 512 rehearsed rows, one thread.

    python -m benchmarks.balancer_cost [--steps 8] [--rounds 5] [--balancers NAME ...] [--json]

Every balancer has a learner of its own with full memories. The learners take turns of `--steps` steps, `--rounds`
times, so that what else the machine does meets all of them; the quickest turn of each counts, in CPU time. Rows have the shape and about the
distinct ids of the `steady` shop; their labels are drawn. `+ parameters`: with products of gradients over all shared
parameters instead of at the border; `+ affinity`: `weighted`, its gradients compared at every step.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from benchmarks.bare_loop import IDS
from benchmarks.report import Figure, note, parser, tell
from benchmarks.shop_stream import MINILM_DIM
from stream_mtl.balancers import BALANCERS
from stream_mtl.batch import Batch, Spec, empty
from stream_mtl.config import Config
from stream_mtl.description import DENSE, SPARSE
from stream_mtl.learner import Learner

ROWS = 512  # fresh ones of a step; as many are rehearsed
READY = 16


def batches(spec: Spec) -> list[Batch]:
    draws = torch.Generator().manual_seed(1)
    return [_batch(spec, number, draws) for number in range(READY)]


def _batch(spec: Spec, number: int, draws: torch.Generator) -> Batch:
    sparse = [
        torch.randint(0, n, (ROWS,), generator=draws) * 7919 + f + 1 for f, n in enumerate(IDS)
    ]
    return replace(
        empty(spec, ROWS),
        sparse_BF=torch.stack(sparse, 1) % spec.table_rows,
        dense_BD=torch.randn(ROWS, len(spec.dense_fields), generator=draws),
        title_BE=torch.randn(ROWS, spec.text_dim, generator=draws).half() / 20,
        query_BE=torch.randn(ROWS, spec.text_dim, generator=draws).half() / 20,
        position_B=torch.randint(1, 10, (ROWS,), generator=draws),
        label_BT=(torch.rand(ROWS, len(spec.tasks), generator=draws) < 0.1).float(),
        mask_BT=torch.ones(ROWS, len(spec.tasks), dtype=torch.bool),
        row_key_B=torch.arange(ROWS) + number * ROWS,
        list_key_B=torch.arange(ROWS) // 10 + number * ROWS,
    )


def settings(name: str) -> dict[str, Any]:
    """Of a line of the table."""
    plain, _, extra = name.partition(" + ")
    more = {"parameters": {"gradients": "parameters"}, "affinity": {"affinity_every": 1}}
    return {"balancer": {"name": plain, **more.get(extra, {})}, "memory": {"rows": 2048}}


def measure(names: Sequence[str], steps: int, rounds: int) -> dict[str, float]:
    """Milliseconds of CPU time for 1,000 rows, fresh and rehearsed."""
    config = Config()
    spec = Spec(SPARSE, DENSE, tuple(config.tasks), config.features.table_rows, MINILM_DIM)
    ready = batches(spec)
    learners = {}
    for name in names:
        learners[name] = Learner(spec, Config.model_validate(settings(name)), torch.device("cpu"))
        for batch in ready[:6]:
            learners[name].step(batch)
    best = dict.fromkeys(names, float("inf"))
    for turn in range(rounds):
        for name, learner in learners.items():
            rows, began = 0, time.process_time()
            for number in range(steps):
                report = learner.step(ready[(turn * steps + number) % READY])
                rows += report.rows + report.rehearsed
            best[name] = min(best[name], (time.process_time() - began) * 1e6 / rows)
        note(f"round {turn + 1} of {rounds}")
    return best


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--balancers", nargs="+")
    given = options.parse_args()
    torch.set_num_threads(1)
    every = ["weighted", *(n for n in BALANCERS if n != "weighted"), "upgrad + parameters"]
    names = ["weighted", *(given.balancers or [*every[1:], "weighted + affinity"])]
    cost = measure(names, given.steps, given.rounds)
    told = []
    for name, value in cost.items():
        told.append(Figure(f"{name}: CPU ms per 1,000 rows", value, "reported", None))
        told.append(Figure(f"{name}: over weighted", value / cost["weighted"], "", None))
    return tell(told, given.json)


if __name__ == "__main__":
    sys.exit(main())
