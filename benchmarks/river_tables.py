"""River's Phishing and Bananas: its own models under our evaluator, and our learner on the same streams.

    python -m benchmarks.river_tables [--seeds S ...] [--json]

1. River's models, judged by our measures, must give the digits that river prints (its benchmark page) and what
   its own evaluator says today. Where the two differ, the printed one is of an older river.
2. The same logistic regression with labels that come 50 and 200 rows late, against river's evaluator.
3. Our learner, one pass, row by row, each row predicted before it is learned, must be above river's
   logistic regression and its adaptive random forest (defaults) in accuracy: means over the seeds.

The learner's configuration (`SETTINGS`, `EDGES`) is one for both streams. It was chosen on both with seeds 1 and 2,
the seeds reported are others; the forest runs with the same ones. Inputs are standardised by the mean and
deviation of the rows before, then laid out piecewise linearly (Gorishniy et al., NeurIPS 2022, eq. 1) over fixed
edges, so that a value of its own can have a weight of its own.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.report import Figure, note, parser, tell
from stream_mtl.batch import Batch, Spec, empty
from stream_mtl.config import Config
from stream_mtl.learner import Learner
from stream_mtl.measures import MEASURES
from stream_mtl.measures.base import Judged, judged

Floats = npt.NDArray[np.float64]
Row = tuple[Mapping[str, float], bool]
SEEDS = [11, 12, 13, 14, 15]
EDGES = np.linspace(-2, 2, 17)  # in standard deviations
SETTINGS: dict[str, Any] = {
    "model": {"name": "shared_bottom", "hidden": 64, "tower": 32},
    "rehearsal": {"loss": "er", "ratio": 32, "beta": 1.0},
    "optimizer": {"first_lr": 0.005, "dense_lr": 0.002, "weight_decay": 0.3},
    "learner": {"average": 0.98},
    "tasks": {"label": {"kind": "binary"}},
    "scoring": {"value": {"label": 1.0}, "search_value": {}},
}
# as printed by river's benchmark page (learning rate .005): accuracy, F1 of the positive class
PRINTED: dict[tuple[str, str], dict[str, float]] = {
    ("Phishing", "logistic regression"): {"accuracy": 0.8872, "f1": 0.871233},
    ("Bananas", "logistic regression"): {"accuracy": 0.543208, "f1": 0.197015},
    ("Phishing", "naive Bayes"): {"accuracy": 0.884708},
    ("Bananas", "naive Bayes"): {"accuracy": 0.61521},
    ("Phishing", "last class"): {"accuracy": 0.515612},
    ("Bananas", "last class"): {"accuracy": 0.50953},
}
LATE = {0: (0.8872, 0.38293), 50: (0.8792, 0.398889), 200: (0.8272, 0.444607)}


class Model(Protocol):
    def predict(self, x: Mapping[str, float]) -> float:
        """Probability of the positive class; NaN: nothing is said."""
        ...

    def learn(self, x: Mapping[str, float], y: bool) -> None: ...


class Peer:
    """A model of river's; a class without a probability is said with certainty."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict(self, x: Mapping[str, float]) -> float:
        said = self._model.predict_proba_one(x)
        return float(said.get(True, 0.0)) if said else float("nan")

    def learn(self, x: Mapping[str, float], y: bool) -> None:
        self._model.learn_one(x, y)


class Standardised:
    """z of each input by the rows learned so far (Welford); 0 where nothing varies yet."""

    def __init__(self, inputs: int) -> None:
        self._count, self._mean_D, self._squares_D = 0, np.zeros(inputs), np.zeros(inputs)

    def learn(self, input_D: Floats) -> None:
        self._count += 1
        gap_D = input_D - self._mean_D
        self._mean_D += gap_D / self._count
        self._squares_D += gap_D * (input_D - self._mean_D)

    def __call__(self, input_D: Floats) -> Floats:
        spread_D = np.sqrt(self._squares_D / max(self._count, 1))
        return np.where(
            spread_D > 0, (input_D - self._mean_D) / np.where(spread_D > 0, spread_D, 1), 0.0
        )


def piecewise(z_D: Floats) -> Floats:
    """Each z and how far it reaches into every piece between two edges, less a half."""
    reach_DP = np.clip((z_D[:, None] - EDGES[:-1]) / np.diff(EDGES), 0, 1) - 0.5
    return np.concatenate((z_D[:, None], reach_DP), 1).ravel()


class Ours:
    """The learner on dense fields alone, one row a step, with rehearsal."""

    def __init__(self, inputs: int, seed: int) -> None:
        fields = tuple(f"{i}.{piece}" for i in range(inputs) for piece in range(len(EDGES)))
        self._spec = Spec((), fields, ("label",), table_rows=1, text_dim=0)
        config = Config.model_validate(SETTINGS | {"seed": seed})
        self._learner = Learner(self._spec, config, torch.device("cpu"))
        self._scaled, self._rows = Standardised(inputs), 0

    def predict(self, x: Mapping[str, float]) -> float:
        return float(self._learner.predict(self._row(x)).prob_BT[0, 0])

    def learn(self, x: Mapping[str, float], y: bool) -> None:
        self._scaled.learn(_inputs(x))
        self._rows += 1
        row = self._row(x)
        row.label_BT[0, 0], row.mask_BT[0, 0] = float(y), True
        row.row_key_B[0] = row.list_key_B[0] = self._rows
        self._learner.step(row)

    def _row(self, x: Mapping[str, float]) -> Batch:
        row = empty(self._spec, 1)
        row.dense_BD[0] = torch.from_numpy(piecewise(self._scaled(_inputs(x))).astype(np.float32))
        return row


def _inputs(x: Mapping[str, float]) -> Floats:
    return np.array([float(value) for value in x.values()])


@dataclass(frozen=True)
class Outcome:
    said: Judged  # probabilities
    classes: Judged

    def value(self, measure: str) -> float:
        rows = self.classes if measure in ("accuracy", "f1") else self.said
        return MEASURES[measure].over(rows) or 0.0


def prequential(model: Model, rows: Sequence[Row], delay: int = 0) -> Outcome:
    """Each row is predicted, and learned before the `delay`-th row after it is (0: before the next)."""
    said: list[float] = []
    waiting: deque[Row] = deque()
    for x, y in rows:
        said.append(model.predict(x))
        waiting.append((x, y))
        if len(waiting) >= delay:
            model.learn(*waiting.popleft())
    labels = [float(y) for _, y in rows]
    said_N = np.array(said)
    class_N = np.where(np.isnan(said_N), np.nan, said_N > 0.5)
    return Outcome(judged(said_N, labels), judged(class_N, labels))


def load(name: str) -> list[Row]:
    from river import datasets

    return [(x, bool(y)) for x, y in getattr(datasets, name)()]


def peers() -> dict[str, Callable[[], Any]]:
    from river import dummy, linear_model, naive_bayes, optim, preprocessing

    return {
        "logistic regression": lambda: (
            preprocessing.StandardScaler()
            | linear_model.LogisticRegression(optimizer=optim.SGD(0.005))
        ),
        "naive Bayes": naive_bayes.GaussianNB,
        "last class": dummy.NoChangeClassifier,
    }


def rivers_own(model: Any, rows: Sequence[Row], measure: str, delay: int = 0) -> float:
    """The same figure by river's evaluator."""
    from river import evaluate, metrics

    metric = {"accuracy": metrics.Accuracy, "f1": metrics.F1, "log_loss": metrics.LogLoss}[
        measure
    ]()
    return float(evaluate.progressive_val_score(rows, model, metric, delay=delay or None).get())


def reproduced() -> list[Figure]:
    """River's models under our evaluator against what it printed and what it says today."""
    figures = []
    for (stream, name), printed in PRINTED.items():
        rows, new = load(stream), peers()[name]
        outcome = prequential(Peer(new()), rows)
        for measure, digits in printed.items():
            ours, theirs = outcome.value(measure), rivers_own(new(), rows, measure)
            same = round(ours, 6) == digits
            target = f"printed {digits:g}" + ("" if same else f", river now {theirs:.6f}")
            figures.append(
                Figure(
                    f"{stream}: {name}, {measure}",
                    f"{ours:.6f}",
                    target,
                    math.isclose(ours, theirs),
                )
            )
    return figures


def late_labels() -> list[Figure]:
    rows, new, figures = load("Phishing"), peers()["logistic regression"], []
    for delay, (accuracy, loss) in LATE.items():
        outcome = prequential(Peer(new()), rows, delay)
        for measure, expected in (("accuracy", accuracy), ("log_loss", loss)):
            value = outcome.value(measure)
            figures.append(
                Figure(
                    f"Phishing: logistic regression, labels {delay} rows late, {measure}",
                    f"{value:.6f}",
                    f"{expected:g}",
                    round(value, 6) == expected,
                )
            )
    return figures


def compared(seeds: Sequence[int]) -> list[Figure]:
    """Our learner beside river's logistic regression and forest: means over the seeds."""
    from river.forest import ARFClassifier

    figures = []
    for stream in ("Phishing", "Bananas"):
        rows = load(stream)
        runs: dict[str, list[Outcome]] = {
            "logistic regression": [prequential(Peer(peers()["logistic regression"]()), rows)],
            "adaptive random forest": [],
            "ours": [],
        }
        for seed in seeds:
            runs["adaptive random forest"].append(prequential(Peer(ARFClassifier(seed=seed)), rows))
            runs["ours"].append(prequential(Ours(len(rows[0][0]), seed), rows))
            note(
                f"{stream} seed {seed}: "
                + ", ".join(f"{name} {run[-1].value('accuracy'):.4f}" for name, run in runs.items())
            )
        figures += beside(stream, runs)
    return figures


def beside(stream: str, runs: Mapping[str, Sequence[Outcome]]) -> list[Figure]:
    """`ours` must have the best accuracy; the rest is told."""

    def mean(name: str, measure: str) -> float:
        return float(np.mean([run.value(measure) for run in runs[name]]))

    best = max(mean(name, "accuracy") for name in runs if name != "ours")
    figures = []
    for name, outcomes in runs.items():
        for measure in ("accuracy", "f1", "auc", "log_loss"):
            asked = name == "ours" and measure == "accuracy"
            value = mean(name, measure)
            spread = float(np.std([run.value(measure) for run in outcomes]))
            figures.append(
                Figure(
                    f"{stream}: {name}, {measure}",
                    f"{value:.4f}" + (f" ± {spread:.4f}" if len(outcomes) > 1 else ""),
                    f"> {best:.4f}" if asked else "",
                    value > best if asked else None,
                )
            )
    return figures


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    args = options.parse_args()
    warnings.simplefilter("ignore")  # of river's
    torch.set_num_threads(1)
    return tell([*reproduced(), *late_labels(), *compared(args.seeds)], args.json)


if __name__ == "__main__":
    sys.exit(main())
