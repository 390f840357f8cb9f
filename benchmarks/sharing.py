"""Which tasks should share a network? What the gradients say, checked by learning every division of the tasks.

    python -m benchmarks.sharing [--events 40000] [--seeds S ...] [--scenarios steady ...] [--tapes FOLDER] [--json]

The suggestion is `task_affinity.groups` of the cosines that one fold of all tasks measured (`balancer.affinity_every`), as a
summary tells it; of the gradients of all shared parameters, since at the border tasks whose labels come in different rows
never meet (`balancer.gradients`). A division of the tasks is learned as one network a group, each told the labels of its own tasks alone; so
every set of tasks is learned once, and every division is put together of them. A task outside its funnel is a yes or no.
Judged: of click and purchase the share of the way from the base rate to the truth, of search the AUC; a division by the mean of the
three. All learn the same tape (`benchmarks.methods_table`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from benchmarks.balancer_shop import Recording
from benchmarks.label_efficiency import ALONE, TASKS
from benchmarks.lesson_tape import Pupil, Tape, never_told
from benchmarks.losses_shop import lists, rates
from benchmarks.methods_table import config_of, recorded
from benchmarks.report import Figure, note, parser, tell
from stream_mtl.task_affinity import groups

Group = tuple[int, ...]
Division = tuple[Group, ...]
EVERY = 20  # steps between two looks at the gradients
ALL: Group = tuple(range(len(TASKS)))


def divisions(tasks: Group) -> Iterator[Division]:
    """Every way of putting tasks into groups, each once."""
    if not tasks:
        yield ()
        return
    first, rest = tasks[0], tasks[1:]
    for size in range(len(rest) + 1):
        for others in combinations(rest, size):
            left = tuple(task for task in rest if task not in others)
            for more in divisions(left):
                yield ((first, *others), *more)


def learned(tape: Tape, judge: Recording, scenario: str, group: Group) -> tuple[dict[int, float], Division]:  # fmt: skip
    """Quality of each task of the group when nothing else is told, and which of them the gradients would let share."""
    config = config_of(scenario, ALONE["purchase"] if 0 not in group else ())
    seen = {"affinity_every": EVERY, "gradients": "parameters"}
    balancer = config.balancer.model_copy(update=seen)
    pupil = Pupil(tape.spec, config.model_copy(update={"balancer": balancer}))
    silent = never_told([task for task in ALL if task not in group])
    pupil.learn((told for _, told in tape.told), silent)
    said_NT = torch.cat(pupil.said).numpy().astype(np.float64)
    quality = {
        task: lists(judge, said_NT)["AUC"]
        if TASKS[task] == "search"
        else rates(judge, said_NT, task)["share"]
        for task in group
    }
    cosine_TT = pupil.learner.affinity()
    note(f"{_name((group,))}: {quality}; cosines {np.round(cosine_TT.numpy(), 3).tolist()}")
    return quality, groups(cosine_TT)


def _name(division: Sequence[Group]) -> str:
    return " | ".join(" + ".join(TASKS[task] for task in group) for group in division)


def figures(scenario: str, seeds: Sequence[tuple[dict[Group, dict[int, float]], Division]]) -> list[Figure]:  # fmt: skip
    """Of every division its mean over seeds; and the place of what each seed's gradients suggested."""
    told, means = [], []
    for quality, _ in seeds:
        means.append(
            {
                division: float(np.mean([quality[g][task] for g in division for task in g]))
                for division in divisions(ALL)
            }
        )
    for division in divisions(ALL):
        each = {
            TASKS[task]: float(np.mean([quality[group][task] for quality, _ in seeds]))
            for group in division
            for task in group
        }
        single = ", ".join(f"{name} {value:.4f}" for name, value in each.items())
        mean = float(np.mean([m[division] for m in means]))
        told.append(Figure(f"{scenario}: {_name(division)} ({single})", mean, "", None))
    for (_, suggested), mean_of in zip(seeds, means, strict=True):
        place = 1 + sum(value > mean_of[suggested] for value in mean_of.values())
        told.append(
            Figure(
                f"{scenario}: suggested: {_name(suggested)}; its place among {len(mean_of)}",
                place,
                "",
                None,
            )
        )
    return told


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--events", type=int, default=40_000)
    options.add_argument("--seeds", type=int, nargs="+", default=[11, 12])
    options.add_argument("--scenarios", nargs="+", default=["steady"], choices=["steady", "season"])
    options.add_argument("--tapes", type=Path, help="folder that keeps the tapes")
    args = options.parse_args()
    torch.set_num_threads(1)
    found: list[Figure] = []
    for scenario in args.scenarios:
        seeds = []
        for seed in args.seeds:
            tape, judge = recorded(args.tapes, scenario, args.events, seed)
            sets = sorted({group for division in divisions(ALL) for group in division})
            of = {group: learned(tape, judge, scenario, group) for group in sets}
            seeds.append(({group: quality for group, (quality, _) in of.items()}, of[ALL][1]))
        found += figures(scenario, seeds)
    return tell(found, args.json)


if __name__ == "__main__":
    sys.exit(main())
