"""How many of a task's labels do the other tasks replace? The simulated shop `steady`.

    python -m benchmarks.label_efficiency [--events 40000] [--seeds S ...] [--tasks NAME ...] [--shares S ...]
        [--tapes FOLDER] [--json]

A task is learned alone with all of its labels, then beside the other tasks with all, half, a quarter and a tenth of
them, thinned by a hash of the list. What is thinned is unknown, not negative. All arms
learn the same tape (`benchmarks.methods_table`). Alone, purchase is a yes or no of every row: a funnel needs its clicks.
Reported is the share at which the tasks together are as good as the task alone, between the shares tried on a line over
the logarithm: of purchase in the way from the base rate to the truth, of search in AUC.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.balancer_shop import Recording
from benchmarks.lesson_tape import Mask, Pupil, Tape, never_told
from benchmarks.losses_shop import lists, rates
from benchmarks.methods_table import config_of, recorded
from benchmarks.report import Figure, note, parser, tell
from stream_mtl import Config
from stream_mtl.batch import Batch
from stream_mtl.hashing import hash64, mix64

TASKS = ("click", "purchase", "search")
ALONE: dict[str, tuple[str, ...]] = {"purchase": ("tasks.purchase.kind=binary",), "search": ()}
SHARES = (1.0, 0.5, 0.25, 0.1)
_SALT = hash64("labels that are told")


def part_told(task: int, share: float) -> Mask:
    """This share of one task's labels is known; a list has all of its labels or none."""

    def mask(batch: Batch) -> Batch:
        chance_B = torch.from_numpy(mix64(batch.list_key_B.numpy(), _SALT)).double() / 2**63
        mask_BT, label_BT = batch.mask_BT.clone(), batch.label_BT.clone()
        unknown_B = chance_B >= share
        mask_BT[unknown_B, task], label_BT[unknown_B, task] = False, 0.0
        return replace(batch, mask_BT=mask_BT, label_BT=label_BT).select(mask_BT.any(1))

    return mask


def quality(tape: Tape, judge: Recording, config: Config, task: str, mask: Mask) -> float:
    pupil = Pupil(tape.spec, config)
    pupil.learn((told for _, told in tape.told), mask)
    said_NT = torch.cat(pupil.said).numpy().astype(np.float64)
    if task == "search":
        return lists(judge, said_NT)["AUC"]
    return rates(judge, said_NT, TASKS.index(task))["share"]


def equal_at(alone: float, together: Mapping[float, float]) -> float:
    """The least share from which on `together` (share to quality) is as good as alone; inf: not even with all labels."""
    above = math.inf
    for share in sorted(together, reverse=True):
        if together[share] < alone:
            if math.isinf(above):
                return above
            part = (alone - together[share]) / (together[above] - together[share])
            return math.exp(math.log(share) + part * (math.log(above) - math.log(share)))
        above = share
    return above


def figures(task: str, alone: Sequence[float], together: Mapping[float, Sequence[float]]) -> list[Figure]:  # fmt: skip
    mean = {share: float(np.mean(values)) for share, values in together.items()}
    least = equal_at(float(np.mean(alone)), mean)
    said = "more than all" if math.isinf(least) else f"{least:.2f}"
    if least == min(mean):
        said = f"at most {least:g}"
    what = "AUC" if task == "search" else "share closed"
    return [
        Figure(f"{task} alone, all labels: {what}", float(np.mean(alone)), "", None),
        *(
            Figure(f"{task} beside the others, {share:g} of its labels: {what}", value, "", None)
            for share, value in mean.items()
        ),
        Figure(f"{task}: share of labels that is as good as alone with all", said, "", None),
    ]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--events", type=int, default=40_000)
    options.add_argument("--seeds", type=int, nargs="+", default=[11])
    options.add_argument("--tasks", nargs="+", default=list(ALONE), choices=list(ALONE))
    options.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    options.add_argument("--tapes", type=Path, help="folder that keeps the tapes")
    args = options.parse_args()
    torch.set_num_threads(1)
    alone: dict[str, list[float]] = {task: [] for task in args.tasks}
    together: dict[str, dict[float, list[float]]] = {
        task: {share: [] for share in args.shares} for task in args.tasks
    }
    for seed in args.seeds:
        tape, judge = recorded(args.tapes, "steady", args.events, seed)
        for task in args.tasks:
            own, config = TASKS.index(task), config_of("steady", ALONE[task])
            others = never_told([t for t in range(len(TASKS)) if t != own])
            alone[task].append(quality(tape, judge, config, task, others))
            note(f"seed {seed} {task} alone: {alone[task][-1]:.4f}")
            for share, found in together[task].items():
                mask = part_told(own, share)
                found.append(quality(tape, judge, config_of("steady"), task, mask))
                note(f"seed {seed} {task} {share:g}: {found[-1]:.4f}")
    return tell([f for task in args.tasks for f in figures(task, alone[task], together[task])], args.json)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
