"""Losses for lists, for rare classes and for places, on the simulated shop `steady`.

    python -m benchmarks.losses_shop [--events 40000] [--seeds 3] [--only NAME ...] [--json]

The fold runs once a seed and writes down what it asks of its learner, as in `benchmarks.balancer_shop`; every variant gets a
learner of its own that is asked the same, through a queue of its own, since some drop rows. Judged is what was predicted when
rows were shown, over the last 40 % of them.

* search: AUC and NDCG@10 over lists of searches with a click, and the calibration of the probabilities.
* purchase: share of the way from the base rate to the truth (normalised entropy), normalised entropy, ECE in ten bins of equal
  count, and the rows and CPU time that a variant needs beside the plain one.
* place: what is predicted for the first place against the simulator's probability there, over rows of all places: share of the
  way in cross-entropy, and the rank correlation with the truth. Propensities come from the bias that the first variant learned.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from sklearn.metrics import ndcg_score, roc_auc_score

from benchmarks.balancer_shop import LAST, Recording, record
from benchmarks.ladder import normalised_entropy
from benchmarks.report import Figure, note, parser, tell
from benchmarks.shop_stream import minilm
from stream_mtl.config import Config
from stream_mtl.layers import POSITION_UNIT
from stream_mtl.learner import Learner
from stream_mtl.pending import Pending
from stream_mtl.propensity import from_bias
from stream_mtl.simulator.scenario import SCENARIOS
from stream_mtl.thinning import thinner

Floats = npt.NDArray[np.float64]
BINARY = {"kind": "binary", "after": None}
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {},
    "search: lambdarank": {"search": {"ranking": "lambdarank"}},
    "search: jrc": {"search": {"ranking": "jrc"}},
    "search: bce": {"search": {"kind": "binary"}},
    "purchase: binary": {"purchase": BINARY},
    "purchase: focal": {"purchase": {**BINARY, "imbalance": "focal"}},
    "purchase: weights 1:10": {
        "purchase": {**BINARY, "imbalance": "class_weights", "class_weights": (1.0, 10.0)}
    },
    "purchase: keep 0.5": {"purchase": {"keep_negatives": 0.5}},
    "purchase: keep 0.2": {"purchase": {"keep_negatives": 0.2}},
    "purchase: keep 0.1": {"purchase": {"keep_negatives": 0.1}},
    "place: ipw": {name: {"position": "ipw"} for name in ("click", "search")},
    "place: none": {name: {"position": "none"} for name in ("click", "search")},
}


@dataclass
class Answers:
    """Of one variant: probabilities as shown, and as if on the first place; what it cost."""

    said_NT: Floats
    first_NT: Floats
    learner: Learner
    rows: int
    cpu_s: float


def config_of(name: str, propensities: tuple[float, ...]) -> Config:
    tasks = {task: given.model_dump() for task, given in Config().tasks.items()}
    for task, changed in VARIANTS[name].items():
        tasks[task] |= changed
        if changed.get("position") == "ipw":
            tasks[task]["propensities"] = propensities
    return minilm(tasks=tasks, cut={"file_span_ms": 60_000})


def play(tape: Recording, spec: Any, config: Config, places: bool) -> Answers:
    """`places`: ask for the first place too. Rows that are not judged are not asked for: NaN."""
    shown, seen = len(tape.label_NT), 0
    learner, said, first, rows, cpu_s = Learner(spec, config, torch.device("cpu")), [], [], 0, 0.0
    settings = config.learner
    queue = Pending(spec, settings.batch_rows, settings.first_rows, thinner(config.tasks))
    for name, batch in tape.calls:
        if name == "predict":
            seen += len(batch)
            nothing_BT = np.full((len(batch), len(spec.tasks)), np.nan)
            late = seen > (1 - LAST) * shown
            said.append(learner.predict(batch).prob_BT.numpy() if late else nothing_BT)
            at_first = replace(batch, position_B=torch.ones_like(batch.position_B))
            wanted = late and places
            first.append(learner.predict(at_first).prob_BT.numpy() if wanted else nothing_BT)
            continue
        began = time.process_time()
        if name == "step":
            queue.add(batch)
            for step in queue.full():
                learner.step(step)
                rows += len(step)
        else:
            learner.correct(batch)
        cpu_s += time.process_time() - began
    said_NT, first_NT = (np.concatenate(x).astype(np.float64) for x in (said, first))
    return Answers(said_NT, first_NT, learner, rows, cpu_s)


def judged(tape: Recording, task: int) -> npt.NDArray[np.bool_]:
    usable_N = tape.known_NT[:, task] & ~np.isnan(tape.truth_NT[:, 0])
    late_N: npt.NDArray[np.bool_] = np.arange(len(usable_N)) >= (1 - LAST) * len(usable_N)
    return usable_N & late_N


def columns(tape: Recording) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """List keys and places of the rows that were shown."""
    shown = [batch for name, batch in tape.calls if name == "predict"]
    return (
        np.concatenate([b.list_key_B.numpy() for b in shown]),
        np.concatenate([b.position_B.numpy() for b in shown]),
    )


def rates(tape: Recording, said_NT: Floats, task: int) -> dict[str, float]:
    judged_N = judged(tape, task)
    before_N = tape.known_NT[:, task] & ~judged_N
    label_N, p_N, true_N = (x[judged_N, task] for x in (tape.label_NT, said_NT, tape.truth_NT))
    base = np.full(len(label_N), tape.label_NT[before_N, task].mean())
    guess, ours, best = (normalised_entropy(label_N, p) for p in (base, p_N, true_N))
    bins = np.array_split(np.argsort(p_N), 10)
    ece = sum(abs(p_N[b].mean() - label_N[b].mean()) * len(b) for b in bins) / len(p_N)
    return {
        "share": (guess - ours) / (guess - best),
        "normalised entropy": ours,
        "ECE over rate": float(ece / label_N.mean()),
        "predicted over true": float(p_N.mean() / true_N.mean()),
    }


def lists(tape: Recording, said_NT: Floats) -> dict[str, float]:
    judged_N = judged(tape, 2)
    list_N = columns(tape)[0][judged_N]
    label_N, p_N = tape.label_NT[judged_N, 2], said_NT[judged_N, 2]
    edges = np.flatnonzero(np.diff(list_N, prepend=list_N[0] - 1, append=list_N[-1] + 1))
    runs = [slice(a, b) for a, b in pairwise(edges) if b - a > 1]
    found = [ndcg_score([label_N[r]], [p_N[r]], k=10) for r in runs if label_N[r].any()]
    return {"AUC": float(roc_auc_score(label_N, p_N)), "NDCG@10": float(np.mean(found))} | rates(
        tape, said_NT, 2
    )


def first_place(tape: Recording, first_NT: Floats) -> dict[str, float]:
    """Click, against the truth with its own place's log-odds taken out."""
    judged_N = judged(tape, 0)
    place_N = columns(tape)[1][judged_N].clip(1)
    drop = SCENARIOS["steady"].position_drop
    p_N = np.clip(first_NT[judged_N, 0], 1e-6, 1 - 1e-6)
    true_N = np.clip(tape.truth_NT[judged_N, 0], 1e-9, 1 - 1e-9)
    true_N = 1 / (1 + np.exp(-np.log(true_N / (1 - true_N)) - drop * np.log(place_N)))
    guess, ours, best = (
        float(-(true_N * np.log(p) + (1 - true_N) * np.log(1 - p)).mean())
        for p in (np.full(len(p_N), true_N.mean()), p_N, true_N)
    )
    return {
        "share on the first place": (guess - ours) / (guess - best),
        "predicted over true": float(p_N.mean() / true_N.mean()),
        "rank correlation": float(spearmanr(p_N, true_N).statistic),
    }


def learned_bias(learner: Learner) -> tuple[float, ...]:
    """Propensities of ten places, from the click head's bias."""
    bias_P = learner.state()["model/heads.0.position_bias"]
    return from_bias(POSITION_UNIT * bias_P[:11])


def figures(name: str, tape: Recording, answers: Answers) -> dict[str, float]:
    told: dict[str, Mapping[str, float]] = {}
    if name == "plain" or name.startswith("search"):
        told["search"] = lists(tape, answers.said_NT)
    if name == "plain" or name.startswith("purchase"):
        told["purchase"] = rates(tape, answers.said_NT, 1)
        told["cost"] = {"rows learned": answers.rows, "CPU s of learning": answers.cpu_s}
    if name == "plain" or name.startswith("place"):
        told["click"] = first_place(tape, answers.first_NT)
        told["search AUC"] = {"AUC": lists(tape, answers.first_NT)["AUC"]}
    told["all"] = {"click share": rates(tape, answers.said_NT, 0)["share"]}
    return {f"{part}: {what}": value for part, one in told.items() for what, value in one.items()}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--events", type=int, default=40_000)
    options.add_argument("--seeds", type=int, nargs="+", default=[3])
    options.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    args = options.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[dict[str, float]]] = {}
    for seed in args.seeds:
        tape, spec = record(args.events, seed, config_of("plain", ()))
        note(f"seed {seed}: {len(tape.label_NT)} rows shown")
        theta: tuple[float, ...] = ()
        for name in ["plain", *(one for one in args.only if one != "plain")]:
            answers = play(
                tape, spec, config_of(name, theta), name == "plain" or name.startswith("place")
            )
            if name == "plain":
                theta = learned_bias(answers.learner)
                note(f"propensities {np.round(theta, 3)}")
            one = figures(name, tape, answers)
            found.setdefault(name, []).append(one)
            note(f"seed {seed} {name}: { {k: round(v, 4) for k, v in one.items()} }")
    return tell(
        [
            Figure(f"{name}: {what}", float(np.mean([one[what] for one in runs])), "", None)
            for name, runs in found.items()
            for what in runs[0]
        ],
        args.json,
    )


if __name__ == "__main__":
    sys.exit(main())
