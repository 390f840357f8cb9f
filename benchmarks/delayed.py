"""Delayed purchases with a known rate: what each way to learn from late labels costs, against knowing them at once.

    python -m benchmarks.delayed [--hours 144] [--seeds 3] [--wait 0] [--rehearsal none]

Clicks have a purchase rate p that depends on ids and numbers and drifts; a purchase comes after an exponential delay
whose mean depends on one of them. A label is right when the window of a day closes. In hour t a learner is taught what
was observed by t, then predicts hour t + 1. Judged against the true probabilities, so without the noise of labels:
bias = mean prediction / mean true rate; NE = cross-entropy with the true rate / entropy of the mean rate;
closed = share of vanilla's distance in NE to the oracle, who knows every label at once, that the method does away with.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.report import Figure, parser, tell
from stream_mtl import batch as batches
from stream_mtl.batch import Batch, Spec
from stream_mtl.config import Config
from stream_mtl.delays import DELAYS
from stream_mtl.learner import Learner
from stream_mtl.provisional import (
    LATE_YES,
    MATURE_LATE,
    MATURE_NO,
    MATURE_YES,
    SEEN_NO,
    SEEN_YES,
)

Floats = npt.NDArray[np.float64]

WINDOW = 24.0  # hours, as everything here
MEAN_DELAY = 8.0
PERIOD = 168.0  # of the brands' fashions
ITEMS, BRANDS = 200, 20
SPEC = Spec(("item", "brand"), ("price", "mood"), ("buy",), 512, 0)
CLOSED = 0.36  # of ES-DFM, as its authors report for AUC on Criteo
METHODS = ("vanilla", "window", "fnw", "fnc", "es_dfm", "defuse", "oracle")
WARM_UP = 48  # hours that are not judged: twice the window


@dataclass(frozen=True, slots=True)
class Clicks:
    """Rows in the order of their time, their true rate (bought within the window) and what happens to them."""

    rows: Batch
    time_B: Floats
    rate_B: Floats
    delay_B: Floats  # inf where nothing is bought

    @property
    def bought_B(self) -> npt.NDArray[np.bool_]:
        return self.delay_B < WINDOW


@dataclass(frozen=True, slots=True)
class Told:
    """Rows that a learner is taught, in order: when, which, and with which label."""

    time_N: Floats
    row_N: npt.NDArray[np.int64]
    label_N: Floats


def clicks(hours: int, an_hour: int, seed: int) -> Clicks:
    random = np.random.default_rng(seed)
    count = hours * an_hour
    time_B = np.sort(random.uniform(0, hours, count))
    item_B, brand_I = random.integers(ITEMS, size=count), random.integers(BRANDS, size=ITEMS)
    dense_BD = random.normal(size=(count, 2))
    phase_R, level_I = random.uniform(0, 2 * np.pi, BRANDS), random.normal(0, 0.7, ITEMS)
    brand_B = brand_I[item_B]
    fashion_B = 0.8 * np.sin(2 * np.pi * time_B / PERIOD + phase_R[brand_B])  # brands, within days
    logit_B = -2.2 + level_I[item_B] + fashion_B + 0.6 * dense_BD[:, 0]
    chance_B = 1 / (1 + np.exp(-logit_B))
    mean_B = MEAN_DELAY * np.exp(0.5 * dense_BD[:, 1])  # who takes time is another question
    delay_B = np.where(random.uniform(size=count) < chance_B, random.exponential(mean_B), np.inf)
    number_B = torch.arange(count)
    sparse_BF = torch.from_numpy(np.stack((1 + item_B, 1 + ITEMS + brand_B), 1))
    rows = replace(
        batches.empty(SPEC, count),
        sparse_BF=sparse_BF,
        dense_BD=torch.from_numpy(dense_BD).float(),
        mask_BT=torch.ones(count, 1, dtype=torch.bool),
        row_key_B=number_B,
        list_key_B=number_B,
        time_B=torch.from_numpy(time_B * 3_600_000).long(),
    )
    return Clicks(rows, time_B, chance_B * (1 - np.exp(-WINDOW / mean_B)), delay_B)


def told(stream: Clicks, method: str, wait: float) -> Told:
    """What a learner hears and when: of a row at the end of its wait, at a late purchase, at the end of its window."""
    row_B, time_B, bought_B = np.arange(len(stream.time_B)), stream.time_B, stream.bought_B
    if method in ("oracle", "window"):
        late = WINDOW if method == "window" else 0.0
        return Told(time_B + late, row_B, bought_B.astype(float))
    seen_B = stream.delay_B <= wait
    late_L = np.flatnonzero(bought_B & ~seen_B)
    mature_B = np.where(bought_B, np.where(seen_B, MATURE_YES, MATURE_LATE), MATURE_NO)
    time_N = np.concatenate(
        (time_B + wait, time_B[late_L] + stream.delay_B[late_L], time_B + WINDOW)
    )
    label_N = np.concatenate(
        (np.where(seen_B, SEEN_YES, SEEN_NO), np.full(len(late_L), LATE_YES), mature_B)
    )
    order_N = np.argsort(time_N, kind="stable")
    row_N = np.concatenate((row_B, late_L, row_B))
    return Told(time_N[order_N], row_N[order_N], label_N[order_N])


def learner(method: str, seed: int, rehearsal: str, step: int) -> Learner:
    delay = method if method in DELAYS else "window"
    settings = {
        "seed": seed,
        "tasks": {"buy": {"kind": "binary", "delay": delay}},
        "model": {"embedding_dim": 8, "experts": 2, "hidden": 32, "tower": 16},
        "features": {"table_rows": SPEC.table_rows},
        "rehearsal": {"loss": rehearsal},
        "learner": {"batch_rows": step, "average": 0.98},
        "optimizer": {"dense_lr": 2e-3, "first_lr": 5e-3, "table_lr": 0.05},
    }
    return Learner(SPEC, Config.model_validate(settings), torch.device("cpu"))


def hourly(
    stream: Clicks, method: str, wait: float, hours: int, seed: int, rehearsal: str, step: int
) -> Iterator[tuple[Floats, Floats]]:
    """Of every hour after the warm-up, predictions made before it and the true rates."""
    model, lessons = learner(method, seed, rehearsal, step), told(stream, method, wait)
    done = 0
    for hour in range(1, hours):
        known = int(np.searchsorted(lessons.time_N, hour))
        while done + step <= known:
            row_N = torch.from_numpy(lessons.row_N[done : done + step])
            label_NT = torch.from_numpy(lessons.label_N[done : done + step]).float().unsqueeze(1)
            model.step(replace(stream.rows.select(row_N), label_BT=label_NT))
            done += step
        if hour >= WARM_UP:
            first, last = np.searchsorted(stream.time_B, (hour, hour + 1))
            said_B = model.predict(stream.rows.rows(int(first), int(last))).prob_BT[:, 0]
            yield said_B.double().numpy(), stream.rate_B[first:last]


def judge(parts: Sequence[tuple[Floats, Floats]]) -> tuple[float, float]:
    """Bias and NE, averaged by count."""
    said_B, rate_B = (np.concatenate(part) for part in zip(*parts, strict=True))
    said_B = np.clip(said_B, 1e-6, 1 - 1e-6)
    cross = -(rate_B * np.log(said_B) + (1 - rate_B) * np.log1p(-said_B)).mean()
    mean = rate_B.mean()
    entropy = -(mean * np.log(mean) + (1 - mean) * np.log1p(-mean))
    return float(said_B.mean() / mean), float(cross / entropy)


def compare(
    hours: int,
    an_hour: int,
    wait: float,
    seeds: int,
    rehearsal: str = "none",
    methods: Sequence[str] = METHODS,
    step: int = 256,
) -> dict[str, list[tuple[float, float, float]]]:
    """Per method (bias, NE, closed) of every seed."""
    found: dict[str, list[tuple[float, float, float]]] = {method: [] for method in methods}
    for seed in range(seeds):
        stream = clicks(hours, an_hour, seed)
        judged = {
            method: judge(list(hourly(stream, method, wait, hours, seed, rehearsal, step)))
            for method in methods
        }
        worst, best = judged["vanilla"][1], judged["oracle"][1]
        for method, (bias, ne) in judged.items():
            found[method].append((bias, ne, (worst - ne) / (worst - best)))
    return found


def figures(found: dict[str, list[tuple[float, float, float]]]) -> list[Figure]:
    told = []
    for method, rows in found.items():
        bias, ne, closed = (float(number) for number in np.mean(rows, 0))
        asked = method == "es_dfm"
        told += [
            Figure(f"{method}: predicted over true", bias, "", None),
            Figure(f"{method}: NE", ne, "", None),
            Figure(
                f"{method}: share of the way from vanilla to oracle",
                closed,
                f">= {CLOSED}" if asked else "",
                closed >= CLOSED if asked else None,
            ),
        ]
    return told


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--hours", type=int, default=144)
    options.add_argument("--an-hour", type=int, default=1_000)
    options.add_argument("--wait", type=float, default=0.0, help="hours")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--rehearsal", default="none")
    options.add_argument("--methods", nargs="+", default=METHODS)
    given = options.parse_args()
    torch.set_num_threads(1)
    found = compare(
        given.hours, given.an_hour, given.wait, given.seeds, given.rehearsal, given.methods
    )
    return tell(figures(found), given.json)


if __name__ == "__main__":
    sys.exit(main())
