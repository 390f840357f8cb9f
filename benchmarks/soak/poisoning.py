"""What an attacker with half the traffic holds and costs, with the defences and without.

    python -m benchmarks.soak.poisoning [--events N] [--seed S] [--scenario attack attack_many] [--set KEY=VALUE ...] [--json]

The simulated shop `steady`, and the same honest events with an attack between them (`simulator/attack.py`): one loud id, or
10,000 that look like anybody. Told is, at the end of the stream,

* the largest share of the rows of any memory that one user holds,
* the AUC of click and purchase on the honest rows of the second half, prequential, in points below the shop that is
  defended and not attacked,
* the share of honest users' newest lists that hold a promoted item, and of their places.

The honest shop without defences stands beside them: what the defences cost those who need none. --set changes a setting of every
defended arm; --gate adds the publish gate to them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.forgetting import Memo
from benchmarks.ladder import MINILM, TASKS, Table, Tap, _table
from benchmarks.report import Figure, note, parser, tell
from stream_mtl import Config, build
from stream_mtl.cut import Record
from stream_mtl.files import TOPIC, cuts_of_records
from stream_mtl.hashing import hash64
from stream_mtl.probes import exact_auc
from stream_mtl.simulator import SCENARIOS, simulate
from stream_mtl.simulator.attack import USER, Attacker
from stream_mtl.simulator.record import as_line
from workers import settings

BLOCKS = 20
Floats = npt.NDArray[np.float64]
SHARE, POINTS = 0.01, 0.5  # asked: of any memory at most, and AUC points at most
# What `defence`, and its like in other sections, does without them.
UNDEFENDED = (
    "defence.events_per_minute=0",
    "defence.user_share=1",
    "defence.item_burst=0",
    "memory.user_share=1",
    "optimizer.clip_row_loss=0",
)
# Neither changes what is learned by much, both save time.
SAFE = ("memory.user_share=0.01", "defence.user_share=0.01", "defence.item_burst=4")
COMMON = (
    "cut.file_span_ms=300000",
    "scoring.min_interval_ms=21600000",
    "scoring.quiet_users=0",
)
NAMES = {
    "steady": "no attack",
    "attack": "one id",
    "attack_many": f"{SCENARIOS['attack_many'].attackers:,} ids",
}


@dataclass
class Arm:
    """What one fold gave."""

    auc: dict[str, float]  # percent, of honest rows
    memory: float  # largest share of any memory that one user holds
    attack_memory: float  # of any memory, that all attacking ids hold together
    lists: float  # share of honest users' newest lists with a promoted item
    places: float  # share of the places of these lists
    totals: Mapping[str, int] = field(repr=False)
    judged: dict[str, tuple[Floats, Floats]] = field(repr=False)  # what was predicted, and labels
    held: dict[str, float] = field(default_factory=dict)  # by memory, the largest share of one user


@dataclass
class Attacked:
    """Records of a scenario until so many honest ones have passed; the truth of what the shop itself showed."""

    scenario: str
    honest: int
    seed: int
    truth: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def records(self) -> Iterator[Record]:
        honest = 0
        for offset, record in enumerate(simulate(self.scenario, 3 * self.honest, self.seed)):
            if honest >= self.honest:
                return
            honest += not record.attack
            for item_id, click, purchase, _ in record.truth or ():
                self.truth[record.event_id, item_id] = (click, purchase)
            yield Record(TOPIC, 0, offset, None, as_line(record))


def promoted_items(seed: int) -> frozenset[str]:
    """What the attacker of this seed promotes, whether it is there or not."""
    attacker = Attacker(1, hash64(f"attack {seed}"))
    for record in simulate("steady", 10_000, seed):
        attacker.watch(record)
        if record.topic_kind == "events":
            attacker.act(record.event_time)
            break
    return attacker.promoted


def config_of(assignments: Sequence[str]) -> Config:
    given = [settings.assignment(one) for one in (*COMMON, *assignments)]
    return settings.load(flags=given).config


def fold(scenario: str, honest: int, seed: int, config: Config, encoder: Any = None) -> Arm:
    """The whole fold over one scenario."""
    pipeline, tap = build(config), Tap()
    if encoder is not None:
        pipeline.parts.encoder = encoder
    tap.attach(pipeline.parts.features)
    stream, newest = Attacked(scenario, honest, seed), dict[str, list[str]]()
    for cut in cuts_of_records(stream.records(), config):
        for output in pipeline.step(cut).outputs:
            keep_list(newest, output.key, output.value)
    item = list(pipeline.parts.features.spec.sparse_fields).index("item")
    promoted = promoted_items(seed)
    hits = [[item in promoted for item in items] for items in newest.values() if items]
    held = shares(pipeline)
    judged = honest_rows(_table(tap, stream.truth, item))
    return Arm(
        auc={task: 100 * exact_auc(p, y > 0.5) for task, (p, y) in judged.items()},
        memory=max(one for one, _ in held.values()),
        attack_memory=max(all_ for _, all_ in held.values()),
        lists=float(np.mean([any(hit) for hit in hits])),
        places=float(np.mean([place for hit in hits for place in hit])),
        totals=dict(pipeline.totals),
        judged=judged,
        held={name: one for name, (one, _) in held.items()},
    )


def keep_list(newest: dict[str, list[str]], key: Any, value: Any) -> None:
    name = key.decode() if isinstance(key, bytes) else str(key)
    if name.startswith("user:") and USER not in name:
        items = json.loads(value)["lists"]["home"] if value else []
        newest[name] = [item["item_id"] for item in items]


def honest_rows(table: Table) -> dict[str, tuple[Floats, Floats]]:
    """Predictions and labels of the second half of what the shop itself showed and whose label is known."""
    own_N = ~np.isnan(table.truth_NT[:, 0])
    found = {}
    for t, task in enumerate(TASKS):
        told_N = own_N & table.known_NT[:, t]
        judged_N = told_N & (told_N.cumsum() > told_N.sum() / 2)
        found[task] = (table.served_NT[judged_N, t], table.label_NT[judged_N, t])
    return found


def cost(task: str, before: Arm, after: Arm) -> tuple[float, float]:
    """AUC points lost on the same rows, and their standard error: a jackknife over BLOCKS parts of the time."""
    (p, y), (q, z) = before.judged[task], after.judged[task]
    assert np.array_equal(y, z), "both are judged on the honest rows"
    block = np.arange(len(y)) * BLOCKS // len(y)

    def lost(kept: npt.NDArray[np.bool_]) -> float:
        positive = y[kept] > 0.5
        return 100 * (exact_auc(p[kept], positive) - exact_auc(q[kept], positive))

    without = np.array([lost(block != k) for k in range(BLOCKS)])
    error = np.sqrt((BLOCKS - 1) / BLOCKS * np.square(without - without.mean()).sum())
    return lost(block >= 0), float(error)


def shares(pipeline: Any) -> dict[str, tuple[float, float]]:
    """By memory: the largest share of its rows that one user holds, and what all attacking ids hold."""
    names = [USER, *(f"{USER}-{k:05d}" for k in range(SCENARIOS["attack_many"].attackers))]
    attacking = np.array([hash64(name, "user") for name in names])
    found = {}
    learner = pipeline.parts.learner
    for name, memory in zip(pipeline.config.tasks, learner._memories, strict=True):
        user_R = memory.column("user_key_B").numpy()
        if not len(user_R):
            continue
        _, rows_U = np.unique(user_R, return_counts=True)
        found[name] = (
            float(rows_U.max() / len(user_R)),
            float(np.isin(user_R, attacking).mean()),
        )
    return found


def figures(arms: Mapping[tuple[str, bool], Arm]) -> list[Figure]:
    told: list[Figure] = []
    best = arms["steady", True]
    for (scenario, defended), arm in arms.items():
        name = f"{NAMES[scenario]}, defences {'on' if defended else 'off'}"
        asked = scenario == "attack" and defended
        told.append(
            Figure(
                f"{name}: largest share of a memory that one user holds",
                arm.memory,
                f"<= {SHARE}" if asked else "",
                arm.memory <= SHARE if asked else None,
            )
        )
        told.append(
            Figure(f"{name}: share that all attacking ids hold", arm.attack_memory, "", None)
        )
        for task in TASKS:
            lost, error = cost(task, best, arm)
            told.append(
                Figure(
                    f"{name}: {task}: AUC points lost of {best.auc[task]:.2f} (+- {error:.2f})",
                    lost,
                    f"<= {POINTS}" if asked else "",
                    lost <= POINTS if asked else None,
                )
            )
        told.append(Figure(f"{name}: honest lists with a promoted item", arm.lists, "", None))
        told.append(Figure(f"{name}: places of these lists", arm.places, "", None))
    return told


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--events", type=int, default=40_000, help="honest ones")
    options.add_argument("--seed", type=int, default=3)
    options.add_argument(
        "--scenario", nargs="+", default=["attack", "attack_many"], choices=list(NAMES)
    )
    options.add_argument("--on-only", action="store_true", help="leave out the undefended arms")
    options.add_argument("--minilm", action="store_true", help="with vectors of titles and queries")
    options.add_argument("--gate", action="store_true")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = options.parse_args()
    torch.set_num_threads(1)
    gate, text = ["gate.publish=true"] * args.gate, [MINILM] * args.minilm
    on = config_of([*text, *SAFE, *args.set, *gate])
    off = config_of([*text, *UNDEFENDED])
    encoder = Memo(build(on).parts.encoder) if args.minilm else None
    arms: dict[tuple[str, bool], Arm] = {}
    for defended in (True,) if args.on_only else (True, False):
        for scenario in dict.fromkeys(["steady", *args.scenario]):
            arm = fold(scenario, args.events, args.seed, on if defended else off, encoder)
            arms[scenario, defended] = arm
            note(f"{scenario} {'on' if defended else 'off'}: {arm}")
    return tell(figures(arms), args.json)


if __name__ == "__main__":
    sys.exit(main())
