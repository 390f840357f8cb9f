"""Every model and every balancer on the simulated shops `steady` and `season`: quality, forgetting and cost.

    python -m benchmarks.methods_table [--scenarios NAME ...] [--events 40000] [--seeds S ...] [--only NAME ...]
        [--arms KEY=VALUE[;KEY=VALUE ...] ...] [--tapes FOLDER] [--json]

Everything but the learner runs once a scenario and seed (`benchmarks.lesson_tape`, with texts and without lists); every
arm is told the same rows in the same order. An arm is the default configuration with another model or another balancer;
cgc and ple have two shared experts and one a task, five in all where mmoe has four. --arms puts arms of settings in the
place of the table. The default is the first arm and the last: what it costs the second time, beside the first, says
how far a cost may be trusted.

Judged is what was predicted when rows were shown, over the last 40 % of them: normalised entropy of click and purchase
and how much of the way from the base rate (0) to the true probabilities (1) it goes; AUC and NDCG@10 of searches.
Forgetting, where domains come and go: click AUC on held-out rows of a phase at its end, less that two phases later, of the
first two phases. Cost: CPU time of optimiser steps per row told (those that an arm drops, too), over the default's.
"""

from __future__ import annotations

import math
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.balancer_shop import Recording, _judge
from benchmarks.forgetting import by_phase
from benchmarks.label_stop import auc
from benchmarks.ladder import MINILM
from benchmarks.lesson_tape import ADD, CORRECT, SHOWN, Pupil, Tape, record
from benchmarks.losses_shop import lists, rates
from benchmarks.report import Figure, note, parser, tell
from stream_mtl import Config
from stream_mtl.balancers import BALANCERS
from stream_mtl.batch import Batch
from stream_mtl.config import Balancer, Model
from stream_mtl.models import MODELS
from stream_mtl.simulator.scenario import SCENARIOS, phase_at
from workers import settings

CLICK = 0
AWAY = 2  # phases of other domains before one returns
DEFAULT, AGAIN = "default", "default again"
PROBE_SHARE = {"steady": 0.05, "season": 0.1}
FIVE = ("model.experts=2",)
ARMS: dict[str, tuple[str, ...]] = {
    DEFAULT: (),
    **{
        f"model {name}": (f"model.name={name}", *(FIVE if name in ("cgc", "ple") else ()))
        for name in MODELS
        if name != Model().name
    },
    **{
        f"balancer {name}": (f"balancer.name={name}",)
        for name in BALANCERS
        if name != Balancer().name
    },
}
COLUMNS = (
    "click NE",
    "click share",
    "purchase NE",
    "purchase share",
    "search AUC",
    "search NDCG@10",
    "lost",
    "lost first",
    "cost",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One arm on one tape, by column; NaN where a scenario has no such figure."""

    value: Mapping[str, float]


def config_of(scenario: str, assignments: Sequence[str] = ()) -> Config:
    """Cuts of a minute: what a user clicked a moment ago counts from the next cut on (five minutes cost a share of .04 of click)."""
    share = f"evaluation.probe_share={PROBE_SHARE[scenario]}"
    given = [MINILM, "cut.file_span_ms=60000", share, *assignments]
    return settings.load(flags=[settings.assignment(one) for one in given]).config


def to_judge(tape: Tape) -> Recording:
    """The rows shown, with what became known of them."""
    shown, labelled = list[tuple[str, Batch]](), [batch for _, batch in tape.held_out]
    for _, (kind, batch) in tape.told:
        if batch is not None and kind == SHOWN:
            shown.append(("predict", batch))
        elif batch is not None and kind in (ADD, CORRECT):
            labelled.append(batch)
    recording = Recording(shown)
    _judge(recording, labelled, tape.truth)
    return recording


def phase_ends(tape: Tape, scenario: str) -> list[int]:
    """Events read when each phase was over; empty where a scenario has no phases."""
    if not SCENARIOS[scenario].phase_ms:
        return []
    ends, phase = [], 0
    for events, now in tape.clock:
        if now and phase_at(now)[0] > phase:
            ends.append(events)
            phase = phase_at(now)[0]
    return ends


def lost(probe: Mapping[tuple[int, int], float], phase: int) -> float:
    """`probe`: (rows of phase, measured when phase ended) to AUC."""
    after = probe.get((phase, phase + AWAY), math.nan)
    return probe.get((phase, phase), math.nan) - after


def play(tape: Tape, judge: Recording, scenario: str, config: Config) -> Row:
    """Learn the tape from its start."""
    pupil, start, probe = Pupil(tape.spec, config), 0, dict[tuple[int, int], float]()
    for ended, events in enumerate(phase_ends(tape, scenario)):
        pupil.learn(tape.between(start, events))
        start = events
        held_out = dict(by_phase(tape.probes(0, events)))
        for phase in (ended, ended - AWAY):
            if phase in held_out:
                probe[phase, ended] = auc(pupil.learner, held_out[phase], CLICK)
    pupil.learn(tape.between(start, tape.clock[-1][0]))
    said_NT = torch.cat(pupil.said).numpy().astype(np.float64)
    value = {"lost": lost(probe, 1), "lost first": lost(probe, 0)}
    for task, name in enumerate(("click", "purchase")):
        found = rates(judge, said_NT, task)
        value[f"{name} NE"], value[f"{name} share"] = found["normalised entropy"], found["share"]
    search = lists(judge, said_NT)
    value |= {f"search {name}": search[name] for name in ("AUC", "NDCG@10")}
    return Row(value | {"cost": pupil.cpu_s / pupil.rows, "steps": float(pupil.learner.version)})


def averaged(rows: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, float]]:
    """Of each arm the mean over seeds; costs are over the default's of the same seed."""
    told = {}
    for arm, seeds in rows.items():
        told[arm] = {name: float(np.mean([s.value[name] for s in seeds])) for name in COLUMNS}
        beside = zip(seeds, rows[DEFAULT], strict=True)
        told[arm]["cost"] = float(np.mean([a.value["cost"] / b.value["cost"] for a, b in beside]))
    return told


def markdown(scenario: str, table: Mapping[str, Mapping[str, float]]) -> str:
    columns = [name for name in COLUMNS if not math.isnan(table[DEFAULT][name])]
    digits = {"cost": 2, "lost": 1, "lost first": 1}
    lines = [f"| {scenario} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for arm, value in table.items():
        told = (f"{value[name]:.{digits.get(name, 4)}f}" for name in columns)
        lines.append(f"| {arm} | " + " | ".join(told) + " |")
    return "\n".join(lines)


def recorded(folder: Path | None, scenario: str, events: int, seed: int) -> Any:
    """The tape and its judge, from the folder where it is known already."""
    kept = folder / f"{scenario}-{events}-{seed}.pickle" if folder else None
    if kept is not None and kept.exists():
        return pickle.loads(kept.read_bytes())
    tape = record(scenario, events, seed, config_of(scenario), shown=True)
    made = tape, to_judge(tape)
    if kept is not None:
        kept.write_bytes(pickle.dumps(made, protocol=5))
    return made


def arms_of(given: Sequence[str] | None, only: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The table's arms or those that were given; the default is first and last."""
    arms = {name: ARMS[name] for name in only}
    if given is not None:
        arms = {one: tuple(one.split(";")) for one in given}
    return {DEFAULT: (), **arms, AGAIN: ()}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--scenarios", nargs="+", default=list(PROBE_SHARE), choices=PROBE_SHARE)
    options.add_argument("--events", type=int, default=40_000)
    options.add_argument("--seeds", type=int, nargs="+", default=[11])
    options.add_argument("--only", nargs="+", default=list(ARMS), choices=list(ARMS))
    options.add_argument("--arms", nargs="+", metavar="KEY=VALUE")
    options.add_argument("--tapes", type=Path, help="folder that keeps the tapes")
    args = options.parse_args()
    torch.set_num_threads(1)
    told: list[Figure] = []
    for scenario in args.scenarios:
        rows: dict[str, list[Row]] = {}
        for seed in args.seeds:
            tape, judge = recorded(args.tapes, scenario, args.events, seed)
            note(f"{scenario} {seed}: {len(judge.label_NT)} rows shown")
            for arm, assignments in arms_of(args.arms, args.only).items():
                row = play(tape, judge, scenario, config_of(scenario, assignments))
                rows.setdefault(arm, []).append(row)
                note(f"{scenario} {seed} {arm}: { {k: round(v, 5) for k, v in row.value.items()} }")
        table = averaged(rows)
        note(markdown(scenario, table))
        told += [
            Figure(f"{scenario}: {arm}: {name}", value[name], "", None)
            for arm, value in table.items()
            for name in COLUMNS
            if not math.isnan(value[name])
        ]
    return tell(told, args.json)


if __name__ == "__main__":
    sys.exit(main())
