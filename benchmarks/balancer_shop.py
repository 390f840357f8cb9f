"""Every balancer on the simulated shop `steady`: how much of the way to the truth each task goes.

    python -m benchmarks.balancer_shop [--events 40000] [--seeds 3] [--balancers NAME ...] [--set KEY=VALUE ...] [--json]

The features and the order of rows do not depend on what is learned (no lists are published), so the fold runs once a seed
and writes down what it asks of its learner; every balancer then gets a learner of its own that is asked the same. Judged is
what was predicted when rows were shown, over the last 40 % of them, on all rows of a task with a known label;
search on the rows of searches. A share is that of the way from the base rate (0) to the true probabilities (1): in normalised
entropy, of search, which is trained to rank and not to say how likely, in AUC. `--set` changes a setting of the balancer, `--weight` the declared importance of purchase and search.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.ladder import _true, leave_out_lists, normalised_entropy
from benchmarks.report import Figure, note, parser, tell
from benchmarks.shop_stream import ShopStream, Vectors, minilm, texts_of, with_encoder
from stream_mtl.balancers import BALANCERS
from stream_mtl.batch import Batch
from stream_mtl.config import Config
from stream_mtl.learner import Learner

LAST = 0.4  # of the shown rows are judged
TASKS = ("click", "purchase", "search")
Floats = npt.NDArray[np.float64]


@dataclass
class Recording:
    """What a fold asked of its learner, in order, and what became known of the rows it showed."""

    calls: list[tuple[str, Batch]] = field(default_factory=list)
    truth_NT: Floats = field(default_factory=lambda: np.zeros((0, 3)))
    label_NT: Floats = field(default_factory=lambda: np.zeros((0, 3)))
    known_NT: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 3), bool))


def record(events: int, seed: int, config: Config) -> tuple[Recording, Any]:
    """One fold; returns what it asked, and the spec of its rows."""
    stream = ShopStream("steady", events, seed, keep_truth=True)
    cuts = list(stream.cuts(config))
    texts = texts_of([r for cut in cuts for r in cut.records], config)
    pipeline, tape = with_encoder(config, Vectors.of_minilm(texts)), Recording()
    leave_out_lists(pipeline)
    learner, features = pipeline.parts.learner, pipeline.parts.features
    labelled: list[Batch] = []
    for name in ("predict", "step", "correct"):
        usual = getattr(learner, name)

        def told(batch: Batch, *more: Any, name: str = name, usual: Any = usual) -> Any:
            tape.calls.append((name, batch.clone()))
            return usual(batch, *more)

        setattr(learner, name, told)
    usual_rows = features.rows

    def rows(outcomes: Sequence[Any]) -> Any:
        made = usual_rows(outcomes)
        labelled.extend((made.batch, made.corrections))
        return made

    features.rows = rows  # type: ignore[method-assign]
    for cut in cuts:
        pipeline.step(cut)
    _judge(tape, labelled, stream.truth)
    return tape, features.spec


def _judge(tape: Recording, labelled: Sequence[Batch], truth: Any) -> None:
    key_N = np.concatenate([b.row_key_B.numpy() for n, b in tape.calls if n == "predict"])
    order_N = np.argsort(key_N, kind="stable")
    tape.label_NT, tape.known_NT = np.zeros((len(key_N), 3)), np.zeros((len(key_N), 3), bool)
    for batch in labelled:
        if len(batch):
            row_B = order_N[np.searchsorted(key_N[order_N], batch.row_key_B.numpy())]
            known_BT = batch.mask_BT.numpy()
            for task in range(3):
                on = known_BT[:, task]
                tape.label_NT[row_B[on], task] = batch.label_BT[:, task].numpy()[on]
                tape.known_NT[row_B[on], task] = True
    true_NT = _true(truth, key_N)
    tape.truth_NT = np.column_stack((true_NT, true_NT[:, 0]))


def replay(tape: Recording, spec: Any, config: Config) -> tuple[Floats, list[dict[str, float]]]:
    """Probabilities when shown (N x T), and the weights of every step."""
    learner, said, weights = Learner(spec, config, torch.device("cpu")), [], []
    for name, batch in tape.calls:
        if name == "predict":
            said.append(learner.predict(batch).prob_BT.numpy())
        elif name == "step":
            weights.append(learner.step(batch).weights)
        else:
            learner.correct(batch)
    affinity = learner.affinity()
    if affinity.isfinite().any():
        note(f"  cosines {[[round(x, 3) for x in row] for row in affinity.tolist()]}")
    return np.concatenate(said).astype(np.float64), weights


def share(tape: Recording, said_NT: Floats, task: int) -> float:
    usable_N = tape.known_NT[:, task] & ~np.isnan(tape.truth_NT[:, 0])
    late_N = np.arange(len(usable_N)) >= (1 - LAST) * len(usable_N)
    judged_N = usable_N & late_N
    label_N = tape.label_NT[judged_N, task]
    if TASKS[task] == "search":
        ours, true = (
            float(roc_auc_score(label_N, p_NT[judged_N, task])) for p_NT in (said_NT, tape.truth_NT)
        )
        return (ours - 0.5) / (true - 0.5)
    base = float(tape.label_NT[usable_N & ~late_N, task].mean())
    predictors = (
        np.full(len(label_N), base),
        said_NT[judged_N, task],
        tape.truth_NT[judged_N, task],
    )
    guess, ours, true = (normalised_entropy(label_N, p) for p in predictors)
    return (guess - ours) / (guess - true)


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--events", type=int, default=40_000)
    options.add_argument("--seeds", type=int, nargs="+", default=[3])
    options.add_argument("--balancers", nargs="+", default=sorted(BALANCERS))
    options.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE")
    options.add_argument("--weight", type=float, default=0.1, help="of purchase and search")
    given = options.parse_args()
    torch.set_num_threads(1)
    changed = dict(one.split("=", 1) for one in given.set)
    tasks = {name: task.model_dump() for name, task in Config().tasks.items()}
    for name in ("purchase", "search"):
        tasks[name]["weight"] = given.weight
    found: dict[str, list[list[float]]] = {name: [] for name in given.balancers}
    for seed in given.seeds:
        tape, spec = record(given.events, seed, minilm(cut={"file_span_ms": 60_000}))
        note(f"seed {seed}: {len(tape.calls)} calls, {len(tape.label_NT)} rows shown")
        for name in given.balancers:
            said_NT, weights = replay(
                tape, spec, minilm(balancer={"name": name, **changed}, tasks=tasks)
            )
            late = weights[len(weights) // 2 :]
            mean = {task: round(float(np.mean([w[task] for w in late])), 3) for task in TASKS}
            found[name].append([share(tape, said_NT, task) for task in range(3)])
            note(f"seed {seed} {name:10} {np.round(found[name][-1], 4)} weights {mean}")
    return tell(
        [
            Figure(f"{name}: share closed, {task}", float(value), "reported", None)
            for name, runs in found.items()
            for task, value in zip(TASKS, np.mean(runs, 0), strict=True)
        ],
        given.json,
    )


if __name__ == "__main__":
    sys.exit(main())
