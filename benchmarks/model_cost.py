"""What a thousand rows cost with every architecture and option, learned and predicted, beside MMoE in the same run.

    python -m benchmarks.model_cost [--rounds N] [--only NAME ...] [--json]

The network in the plain loop of `benchmarks.bare_loop`: the sizes of the default settings and of the shop's rows, 512 fresh and
512 rehearsed rows a step, 1,024 rows a forward when predicting, one thread. CPU time, best of the rounds; the variants
take turns, so that a slow minute of the machine hits all alike. Parameters are the dense ones; private fields also look up more rows.
"""

from __future__ import annotations

import sys

from torch import nn

from benchmarks.bare_loop import BareLoop, Work
from benchmarks.model_quality import VARIANTS, config_of
from benchmarks.report import Figure, note, parser, tell
from benchmarks.shop_stream import MINILM_DIM
from stream_mtl.batch import Spec
from stream_mtl.description import DENSE, SPARSE

STEPS, SCORED = 8, 16 * 1024
STEP_ROWS = 1024  # fresh and rehearsed
LOSSES = ("mmoe+ips", "mmoe+dr", "mmoe, no funnel", "single, no funnel")  # the network is another's
NAMES = [name for name in VARIANTS if name not in LOSSES and name != "mmoe+dropout"]


def loop(name: str) -> BareLoop:
    config = config_of([*VARIANTS[name], "learner.first_rows=512"])
    spec = Spec(SPARSE, DENSE, tuple(config.tasks), config.features.table_rows, MINILM_DIM)
    return BareLoop(spec, config)


def parameters(one: BareLoop) -> int:
    assert isinstance(one._model, nn.Module)
    return sum(p.numel() for p in one._model.parameters())


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--only", nargs="+", default=NAMES, choices=NAMES)
    args = options.parse_args()
    loops = {name: loop(name) for name in dict.fromkeys(("mmoe", *args.only))}
    learn = dict.fromkeys(loops, float("inf"))
    predict = dict.fromkeys(loops, float("inf"))
    for number in range(args.rounds):
        for name, one in loops.items():
            half = STEP_ROWS // 2
            step = one.run(Work(STEPS, STEPS * half, STEPS * half, []))
            score = one.run(Work(0, 0, 0, [SCORED]))
            learn[name] = min(learn[name], 1e6 * step.cpu_s / (STEPS * STEP_ROWS))
            predict[name] = min(predict[name], 1e6 * score.cpu_s / SCORED)
        note(f"round {number + 1} of {args.rounds}")
    told = []
    for name, one in loops.items():
        told += [
            Figure(f"{name}: dense parameters", parameters(one), "", None),
            Figure(f"{name}: learn, ms per 1,000 rows", learn[name], "", None),
            Figure(f"{name}: learn, over mmoe", learn[name] / learn["mmoe"], "", None),
            Figure(f"{name}: predict, ms per 1,000 rows", predict[name], "", None),
            Figure(f"{name}: predict, over mmoe", predict[name] / predict["mmoe"], "", None),
        ]
    return tell(told, args.json)


if __name__ == "__main__":
    sys.exit(main())
