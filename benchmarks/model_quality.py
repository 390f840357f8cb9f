"""Every architecture and option on the same rows of the simulated shop: normalised entropy of click and purchase.

    python -m benchmarks.model_quality [--events N] [--seed S] [--rows FILE] [--only NAME ...] [--set KEY=VALUE ...] [--json]

What a fold asks of its learner (rows to predict when they are shown, rows to learn from, corrections) does not depend on what the
learner answers while no lists are published. So the fold runs once, its calls are kept, and every variant
answers them: as in `benchmarks.ladder --no-lists --alone`, in a fraction of the time. Judged are the rows shown in the last
20 % of the stream. --rows keeps the calls in a file for the next run; --set changes a setting of all variants.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.ladder import MINILM, TASKS, Table, Tap, _table, ladder, leave_out_lists
from benchmarks.report import Figure, note, parser, tell
from benchmarks.shop_stream import ShopStream
from stream_mtl import Config, build
from stream_mtl.batch import Batch, Spec, concat
from stream_mtl.learner import Learner
from stream_mtl.serving import Prediction
from stream_mtl.step_report import StepReport
from workers import settings

FIVE = ("model.experts=2",)  # two shared experts and one a task: five in all, mmoe has four
VARIANTS: dict[str, tuple[str, ...]] = {
    "mmoe": (),
    "shared_bottom": ("model.name=shared_bottom",),
    "cgc": ("model.name=cgc", *FIVE),
    "ple": ("model.name=ple", *FIVE),
    "aitm": ("model.name=aitm",),
    "single": ("model.name=single",),
    "single, no funnel": ("model.name=single", "tasks.purchase.kind=binary"),
    "mmoe, no funnel": ("tasks.purchase.kind=binary",),
    "mmoe+fm": ("model.interactions=fm",),
    "mmoe+dcn": ("model.interactions=dcn",),
    "mmoe+gates": ("model.domain_gates=true",),
    "mmoe+dropout": ("model.dropout=0.1",),
    "mmoe+private": ('model.private_fields=["item","user"]',),
    "mmoe+restricted": ('tasks.search.fields=["!user*","!own*"]',),
    "mmoe+ips": ("tasks.purchase.correction=ips",),
    "mmoe+dr": ("tasks.purchase.correction=dr",),
    "cgc+fm+dcn": ("model.name=cgc", *FIVE, "model.interactions=fm+dcn"),
}


@dataclass
class Calls:
    """What the fold asked, in order: (predict | step | correct, rows)."""

    spec: Spec
    made: list[tuple[str, Batch]] = field(default_factory=list)
    shown: list[Batch] = field(default_factory=list)  # not yet among the calls

    def flush(self) -> None:
        """Consecutive predictions are one: the learner does not change between them."""
        if self.shown:
            self.made.append(("predict", concat(self.shown)))
            self.shown = []

    def predict(self, batch: Batch, ranking: bool = False) -> Prediction:
        self.shown.append(batch)
        nothing_BT = torch.zeros(len(batch), len(self.spec.tasks))
        return Prediction(nothing_BT, nothing_BT, nothing_BT, {})

    def step(self, batch: Batch) -> StepReport:
        self.flush()
        self.made.append(("step", batch.clone()))
        return StepReport(0, {}, {}, 0.0, False, len(batch), 0, "")

    def correct(self, batch: Batch) -> int:
        if len(batch):
            self.flush()
            self.made.append(("correct", batch.clone()))
        return 0


def config_of(assignments: Sequence[str]) -> Config:
    given = [MINILM, "cut.file_span_ms=60000", *assignments]
    return settings.load(flags=[settings.assignment(one) for one in given]).config


def record(events: int, seed: int) -> tuple[Calls, Table]:
    """The calls of one fold, and the table that its answers are judged by."""
    # with a correction, rows tell what was known before; no other loss looks at that
    config = config_of(["tasks.purchase.correction=ips"])
    pipeline, tap = build(config), Tap()
    parts = pipeline.parts
    calls = Calls(parts.features.spec)
    for name in ("predict", "step", "correct"):
        setattr(parts.learner, name, getattr(calls, name))
    parts.evaluation.evaluate_probes = lambda predict: None  # type: ignore[method-assign]
    tap.attach(parts.features)
    leave_out_lists(pipeline)
    stream = ShopStream("steady", events, seed, keep_truth=True)
    for cut in stream.cuts(config):
        pipeline.step(cut)
    calls.flush()
    return calls, _table(tap, stream.truth, calls.spec.sparse_fields.index("item"))


def play(calls: Calls, table: Table, config: Config) -> tuple[Table, float]:
    """The table with this learner's answers, and seconds of CPU time."""
    learner = Learner(calls.spec, config, torch.device("cpu"))
    began, served = time.process_time(), []
    for call, batch in calls.made:
        if call == "predict":
            served.append(learner.predict(batch).prob_BT.numpy())
        else:
            getattr(learner, call)(batch)
    served_NT = np.concatenate(served)[:, :2].astype(np.float64)
    return replace(table, served_NT=served_NT), time.process_time() - began


def figures(name: str, entropies: Mapping[str, Mapping[str, float]]) -> list[Figure]:
    told = []
    for task, one in entropies.items():
        share = (one["base rate"] - one["ours"]) / (one["base rate"] - one["truth"])
        told.append(Figure(f"{name}: {task}: normalised entropy", one["ours"], "", None))
        told.append(Figure(f"{name}: {task}: share closed", share, "", None))
    return told


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--events", type=int, default=40_000)
    options.add_argument("--seed", type=int, default=3)
    options.add_argument("--rows", type=Path, help="file that keeps the calls")
    options.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = options.parse_args()
    torch.set_num_threads(1)
    calls, table = _recorded(args.rows, args.events, args.seed)
    told: list[Figure] = []
    for name in args.only:
        answered, cpu_s = play(calls, table, config_of([*VARIANTS[name], *args.set]))
        entropies = {task: ladder(answered, t, alone=True) for t, task in enumerate(TASKS)}
        told += figures(name, entropies)
        note(f"{name}: {entropies} {cpu_s:.1f} s CPU")
    return tell(told, args.json)


def _recorded(kept: Path | None, events: int, seed: int) -> Any:
    if kept is not None and kept.exists():
        return pickle.loads(kept.read_bytes())
    made = record(events, seed)
    note(f"{len(made[0].made)} calls kept")
    if kept is not None:
        kept.write_bytes(pickle.dumps(made))
    return made


if __name__ == "__main__":
    sys.exit(main())
