"""Does rehearsal keep a task whose labels stop? The simulated shop `season`, on against off.

    python -m benchmarks.label_stop [--seeds S ...] [--tasks NAME ...] [--warm-up N] [--events N]
        [--settings small_steps|changing|default] [--model NAME] [--dense-lr RATE] [--json]

After a warm-up in which every domain was open twice, the labels of one task never come for 100,000 events, while the
other tasks train on: its labels are unknown, not negative. Clicks and purchases still happen and are still counted in the
features: what stops is the telling, so that all that is lost is lost by the model.
The probes are the rows that were held out before the stop, with their true labels and the features of their
time. What is lost is their AUC at the stop less that at the end, the mean over domains. Beside it stands the AUC on
rows held out in the last three phases, where tastes and fashions have moved on since the stop.

Both arms take equally many steps on equally many rows (`lesson_tape.Pupil`). Each task is stopped in turn, from
the same state. There are no text vectors, no lists, and cuts are long: this keeps five seeds within half an hour.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.forgetting import SETTINGS, without_rehearsal
from benchmarks.lesson_tape import Pupil, Tape, never_told, record
from benchmarks.report import Figure, note, parser, tell
from stream_mtl import Config
from stream_mtl.batch import Batch
from stream_mtl.learner import Learner
from stream_mtl.probes import exact_auc

TASKS = ("click", "purchase", "search")
WARM_UP, STOPPED = 50_000, 100_000  # events; six phases have about 47,000
LATE = 24_000  # events of the last three phases, one of each domain
PROBE_SHARE = 0.2  # purchases are rare
LOST_WITHOUT, LOST_WITH = 5.0, 1.0  # AUC points


@dataclass(frozen=True)
class Arm:
    """AUC points of one task that was stopped, by one seed."""

    lost: float  # on the probes from before the stop
    late: float  # AUC at the end, on rows held out lately


def settings(kind: str, /, **more: Any) -> Config:
    whole = {
        "cut": {"file_span_ms": 900_000, "max_records": 20_000},
        "evaluation": {"probe_share": PROBE_SHARE},
        **more,
    }
    return Config.model_validate(whole if kind == "on" else without_rehearsal(whole))


def auc(learner: Learner, rows: Batch, task: int) -> float:
    """Percent, the mean over the domains that have rows of both classes; NaN without any."""
    known = rows.select(rows.mask_BT[:, task])
    if not len(known):
        return math.nan
    prob_B = learner.predict(known).prob_BT[:, task].numpy()
    positive_B = known.label_BT[:, task].numpy() > 0.5
    each = []
    for domain in torch.unique(known.domain_B).tolist():
        of_B = known.domain_B.numpy() == domain
        if positive_B[of_B].any() and not positive_B[of_B].all():
            each.append(exact_auc(prob_B[of_B], positive_B[of_B]))
    return 100 * sum(each) / len(each) if each else math.nan


def stopped(tape: Tape, config: Config, tasks: Sequence[str], warm_up: int) -> dict[str, Arm]:
    """Each task's labels stopped after the warm-up, the others' going on to the tape's end."""
    events = tape.told[-1][0]
    before, late = tape.probes(0, warm_up), tape.probes(max(events - LATE, warm_up), events)
    pupil = Pupil(tape.spec, config)
    pupil.learn(tape.between(0, warm_up))
    arms = {}
    for name in tasks:
        task = TASKS.index(name)
        deaf = pupil.twin()
        deaf.learn(tape.between(warm_up, events), never_told([task]))
        lost = auc(pupil.learner, before, task) - auc(deaf.learner, before, task)
        arms[name] = Arm(lost, auc(deaf.learner, late, task))
    return arms


def figures(arms: dict[str, list[dict[str, Arm]]], tasks: Sequence[str]) -> list[Figure]:
    """`arms`: on and off to one dict of tasks a seed."""
    told = []
    for task in tasks:
        lost = {name: [seed[task].lost for seed in seeds] for name, seeds in arms.items()}
        off, on = float(np.mean(lost["off"])), float(np.mean(lost["on"]))
        each = {name: ", ".join(f"{x:.1f}" for x in values) for name, values in lost.items()}
        late = [a[task].late - b[task].late for a, b in zip(arms["on"], arms["off"], strict=True)]
        told += [
            Figure(f"{task} stopped, AUC points lost, off ({each['off']})", off, f">= {LOST_WITHOUT}", off >= LOST_WITHOUT),
            Figure(f"{task} stopped, AUC points lost, on ({each['on']})", on, f"<= {LOST_WITH}", on <= LOST_WITH),
            Figure(f"{task} stopped, AUC points that on is better on late rows", float(np.mean(late)), "", None),
        ]  # fmt: skip
    return told


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    options.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    options.add_argument("--warm-up", type=int, default=WARM_UP, help="events before the stop")
    options.add_argument("--events", type=int, default=STOPPED, help="events after it")
    options.add_argument("--settings", choices=tuple(SETTINGS), default="default")
    options.add_argument("--model", default="mmoe")
    options.add_argument("--dense-lr", type=float, help="of all steps, the first ones too")
    args = options.parse_args()
    more: dict[str, Any] = {**SETTINGS[args.settings], "model": {"name": args.model}}
    if args.dense_lr:
        rates = {"dense_lr": args.dense_lr, "first_lr": args.dense_lr}
        more["optimizer"] = {**more.get("optimizer", {}), **rates}
    arms: dict[str, list[dict[str, Arm]]] = {"on": [], "off": []}
    for seed in args.seeds:
        tape = record("season", args.warm_up + args.events, seed, settings("on", **more))
        for name, seeds in arms.items():
            seeds.append(stopped(tape, settings(name, **more), args.tasks, args.warm_up))
            note(f"seed {seed} rehearsal {name}: {seeds[-1]}")
    return tell(figures(arms, args.tasks), args.json)


if __name__ == "__main__":
    sys.exit(main())
