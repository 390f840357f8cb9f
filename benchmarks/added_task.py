"""Does a task that is added in the middle cost the others anything? The simulated shop `season`.

    python -m benchmarks.added_task [--seeds S ...] [--json]

One command in the stream adds a task; the same stream without it is folded beside, from the same state. The tasks that were
there are judged prequentially from the addition on, and by rows that were held out before it. For the noise floor
the whole fold is run once more with another seed of the learner: what differs then is chance, and a cost
below it (root mean square over the seeds) is none.

Three additions: how long an item is looked at, with the weight that a task without one gets, which is that of
purchases; the same as important as clicks; and what gender a user told. No lists and no text vectors; cuts are long.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks.label_stop import TASKS, auc, settings
from benchmarks.ladder import leave_out_lists
from benchmarks.report import Figure, note, parser, tell
from stream_mtl import Config, build
from stream_mtl.batch import Batch, concat
from stream_mtl.cut import Cut, Record
from stream_mtl.evaluation import Totals
from stream_mtl.files import TOPIC, cuts_of_records
from stream_mtl.simulator import as_line, simulate
from stream_mtl.simulator.scenario import START_MS

BEFORE, AFTER = 20_000, 24_000  # events
_DWELL = {"kind": "regression", "label": "dwell_ms", "log": True, "center": 9.0, "scale": 1.0}
ADDITIONS: dict[str, dict[str, Any]] = {
    "dwell": _DWELL,
    "heavy dwell": {**_DWELL, "weight": 1.0},
    "gender": {
        "kind": "multiclass",
        "label": "profile.gender",
        "values": ["female", "male", "other"],
    },
}
ALONE, CHANCE = "alone", "chance"  # without an addition; the same with another seed


@dataclass(frozen=True)
class Judged:
    """Of every task that was there before: AUC points, normalised entropy in hundredths."""

    probe: dict[str, float]
    auc: dict[str, float]
    entropy: dict[str, float]


@dataclass
class Fold:
    """A pipeline without lists, and its held-out rows of the time before the addition."""

    pipeline: Any
    probes: list[Batch] = field(default_factory=list)
    listening: bool = True

    def step(self, cut: Cut) -> None:
        parts = self.pipeline.parts
        self.pipeline.step(cut)
        if self.pipeline.parts is not parts:  # a task was added
            leave_out_lists(self.pipeline)

    @classmethod
    def new(cls, config: Config) -> Fold:
        fold = cls(build(config, "added"))
        leave_out_lists(fold.pipeline)
        add = fold.pipeline.parts.evaluation.add_probes

        def add_probes(batch: Batch, served_BC: torch.Tensor) -> None:
            if len(batch) and fold.listening:
                fold.probes.append(batch.clone())
            add(batch, served_BC)

        fold.pipeline.parts.evaluation.add_probes = add_probes
        return fold

    def twin(self, config: Config) -> Fold:
        """Another that goes on from here."""
        other = Fold.new(config)
        state = {
            name: value.clone()
            if isinstance(value, torch.Tensor)
            else json.loads(json.dumps(value))
            for name, value in self.pipeline.state().items()
        }
        other.pipeline.restore(state)
        other.probes, other.listening = list(self.probes), False
        return other

    def judged_since(self, start: Totals) -> Judged:
        evaluation, learner = self.pipeline.parts.evaluation, self.pipeline.parts.learner
        since = evaluation.qualities(evaluation.totals().since(start))
        probes = concat(self.probes)
        return Judged(
            {name: auc(learner, probes, TASKS.index(name)) for name in TASKS},
            {name: 100 * float(since[name]["auc"]) for name in TASKS},
            {name: 100 * float(since[name]["normalized_entropy"]) for name in TASKS},
        )


def command(given: Mapping[str, Any]) -> bytes:
    whole = {"type": "add_task", "command_id": "add", "issued_at": START_MS, "task": "added"}
    return json.dumps(whole | dict(given)).encode()


def cuts(lines: Sequence[bytes], at: int, added: bytes | None, config: Config) -> Iterator[Cut]:
    """With the command at its place; it moves no cut."""
    whole = [*lines[:at], *([added] if added else []), *lines[at:]]
    records = (Record(TOPIC, 0, offset, None, value) for offset, value in enumerate(whole))
    return cuts_of_records(records, config)


def rest(
    fold: Fold, lines: Sequence[bytes], at: int, added: bytes | None, config: Config
) -> Judged:
    """Fold what is left and judge the part behind the cut of the addition."""
    start: Totals | None = None
    for cut in cuts(lines, at, added, config):
        if cut.number < fold.pipeline.cuts:
            continue
        fold.step(cut)
        fold.listening = False
        if start is None:
            start = fold.pipeline.parts.evaluation.totals()
    assert start is not None
    assert ("added" in fold.pipeline.config.tasks) == (added is not None)
    return fold.judged_since(start)


def until(lines: Sequence[bytes], at: int, config: Config) -> Fold:
    """Everything before the cut of the addition."""
    fold, events = Fold.new(config), 0
    for cut in cuts(lines, at, None, config):
        events += len(cut.records)
        if events >= at:
            return fold
        fold.step(cut)
    return fold


def judged(
    seed: int, before: int, after: int, additions: Mapping[str, Mapping[str, Any]], config: Config
) -> dict[str, Judged]:
    """One seed of the stream: every addition, and none."""
    lines = [as_line(one) for one in simulate("season", before + after, seed)]
    fold = until(lines, before, config)
    arms = {
        name: rest(fold.twin(config), lines, before, command(given), config)
        for name, given in additions.items()
    }
    arms[ALONE] = rest(fold, lines, before, None, config)
    return arms


def by_chance(seed: int, before: int, after: int, config: Config) -> Judged:
    """The same stream without an addition, learned by another seed."""
    other = config.model_copy(update={"seed": config.seed + 1})
    lines = [as_line(one) for one in simulate("season", before + after, seed)]
    return rest(until(lines, before, other), lines, before, None, other)


def costs(arms: Sequence[dict[str, Judged]], name: str) -> dict[str, list[float]]:
    """By measure and task, how much worse than alone, one number a seed."""
    made: dict[str, list[float]] = {}
    for task in TASKS:
        for measure, sign in (("probe", 1), ("auc", 1), ("entropy", -1)):
            made[f"{task} {measure}"] = [
                sign * (getattr(one[ALONE], measure)[task] - getattr(one[name], measure)[task])
                for one in arms
            ]
    return made


def figures(arms: Sequence[dict[str, Judged]], additions: Sequence[str]) -> list[Figure]:
    chance = costs(arms, CHANCE)
    told = []
    for name in additions:
        for what, each in costs(arms, name).items():
            floor = float(np.sqrt(np.mean(np.square(chance[what]))))
            cost = float(np.mean(each))
            spread = ", ".join(f"{x:.2f}" for x in each)
            told.append(
                Figure(f"{name} added: {what}, worse by ({spread})", cost, f"<= {floor:.2f} (chance)", cost <= floor)
            )  # fmt: skip
    return told


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    options.add_argument("--additions", nargs="+", default=list(ADDITIONS), choices=ADDITIONS)
    options.add_argument("--before", type=int, default=BEFORE, help="events before the addition")
    options.add_argument("--after", type=int, default=AFTER, help="events after it")
    args = options.parse_args()
    arms: list[dict[str, Judged]] = []
    for seed in args.seeds:
        chosen = {name: ADDITIONS[name] for name in args.additions}
        config = settings("on")
        arms.append(judged(seed, args.before, args.after, chosen, config))
        arms[-1][CHANCE] = by_chance(seed, args.before, args.after, config)
        for name in (*chosen, CHANCE):
            each = {what: round(x[0], 2) for what, x in costs(arms[-1:], name).items()}
            note(f"seed {seed}, {name}, worse by {each}")
    return tell(figures(arms, args.additions), args.json)


if __name__ == "__main__":
    sys.exit(main())
