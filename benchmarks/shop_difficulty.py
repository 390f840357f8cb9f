"""How hard is the simulated shop? Normalised entropy of simple predictors and of the truth.

    python benchmarks/shop_difficulty.py [--events N] [--seed S] [--scenario NAME] [--json]

Normalised entropy (NE) = logloss / entropy of the base rate, on the exposures of the last 20 % of the
records whose purchase window has closed. A predictor's share is how much of the way from the base rate
(NE 1) to the truth it goes. The item-rate table may go at most 30 % of it, else ids alone give the shop away.
`histories` is a gradient-boosted tree on a few counts that any shop could keep (words, categories
and prices of what a user clicked): it shows that the rest can be learned, not how well.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from stream_mtl.config import DAY, MINUTE
from stream_mtl.simulator import simulate

HALF_LIFE_MS = 10 * DAY  # of the item-rate table
PRIOR_ROWS = 50.0  # shown at the base rate before the table believes an item
ITEM_RATE_LIMIT = 0.30
Matrix = npt.NDArray[np.float64]


@dataclass
class Rate:
    """A decayed rate, shrunk towards a base rate."""

    time: int = 0
    shown: float = 0.0
    hits: float = 0.0

    def at(self, time: int, base: float, prior: float) -> float:
        self.decay(time)
        return (self.hits + prior * base) / (self.shown + prior)

    def decay(self, time: int) -> None:
        keep = 0.5 ** ((time - self.time) / HALF_LIFE_MS)
        self.time, self.shown, self.hits = time, self.shown * keep, self.hits * keep


@dataclass
class User:
    """What a shop could remember: per word and category how often shown and clicked."""

    shown: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    clicked: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    last: list[tuple[int, frozenset[str]]] = field(default_factory=list)
    price: float = 0.0
    clicks: float = 0.0
    rows: float = 0.0


@dataclass
class Rows:
    """Exposure rows in time order: label, truth, what the tables said, features."""

    time: list[int] = field(default_factory=list)
    record: list[int] = field(default_factory=list)
    label: list[list[float]] = field(default_factory=list)
    truth: list[tuple[float, float]] = field(default_factory=list)
    item_rate: list[tuple[float, float]] = field(default_factory=list)
    features: list[list[float]] = field(default_factory=list)


FEATURES = (
    "item click rate", "item buy rate", "user click rate", "ln position", "words", "category",
    "words of last clicks", "category of last click", "in session", "query words", "log price",
    "price of clicks", "mobile", "hour", "clicks", "category rate", "brand rate",
)  # fmt: skip


def _lift(user: User, names: tuple[str, ...] | frozenset[str], base: float) -> float:
    """Mean log lift of the user's click rate on these words over the base rate, shrunk."""
    logs = [
        np.log((user.clicked.get(w, 0.0) + 0.5) / (user.shown.get(w, 0.0) * base + 0.5))
        for w in names
    ]
    return float(np.mean(logs)) if logs else 0.0


class Reader:
    """Walks the records once, joins labels as the worker does, and keeps the tables."""

    def __init__(self) -> None:
        self.rows = Rows()
        self.items: dict[str, tuple[frozenset[str], str, float]] = {}
        self.brands: dict[str, str] = {}
        self.rates: dict[str, tuple[Rate, Rate]] = defaultdict(lambda: (Rate(), Rate()))
        self.total = (Rate(), Rate())
        self.users: dict[str, User] = defaultdict(User)
        self.open: dict[tuple[str, str], tuple[int, int]] = {}  # (user, item) -> row, time

    def item(self, event: dict[str, Any]) -> None:
        words = frozenset([*event["title"].split(), event["brand"]])
        self.brands[event["item_id"]] = event["brand"]
        self.items[event["item_id"]] = (words, event["category"], float(np.log(event["price"])))

    def exposure(self, at: int, event: dict[str, Any], truth: tuple[Any, ...]) -> None:
        time, user = event["event_time"], self.users[event["user_id"]]
        base = [max(t.at(time, 0.05, 100.0), 1e-4) for t in self.total]
        asked = frozenset(event.get("query", "").split())
        for (item_id, p_click, p_buy, position), _ in zip(truth, event["items"], strict=True):
            words, category, price = self.items[item_id]
            rate = self.rates[item_id]
            said = (
                rate[0].at(time, base[0], PRIOR_ROWS),
                rate[1].at(time, base[1], 10 * PRIOR_ROWS),
            )
            recent = user.last[-1:] if user.last and time - user.last[-1][0] < 30 * MINUTE else []
            overlap = [len(words & w) for _, w in user.last[-5:]]
            self.rows.features.append([
                said[0], said[1], (user.clicks + 20 * base[0]) / (user.rows + 20),
                np.log(position), _lift(user, words, base[0]), _lift(user, (category,), base[0]),
                float(np.mean(overlap)) if overlap else 0.0,
                float(category in user.last[-1][1]) if user.last else 0.0,
                float(len(words & recent[0][1])) if recent else -1.0,
                float(len(words & asked)), price, user.price,
                float(event["context"]["device"] == "mobile"), time / 3.6e6 % 24, user.clicks,
                *(self.rates[k][0].at(time, base[0], PRIOR_ROWS) for k in (category, self.brands[item_id])),
            ])  # fmt: skip
            self.rows.time.append(time)
            self.rows.record.append(at)
            self.rows.label.append([0.0, 0.0])
            self.rows.truth.append((p_click, p_buy))
            self.rows.item_rate.append(said)
            self.open[event["user_id"], item_id] = len(self.rows.time) - 1, time
        for item_id, *_ in truth:  # what was shown counts after the page is priced
            words, category, _price = self.items[item_id]
            shown = (item_id, category, self.brands[item_id])
            for table in (*self.total, *(t for k in shown for t in self.rates[k])):
                table.decay(time)
                table.shown += 1
            user.rows += 1
            for w in (*words, category):
                user.shown[w] += 1

    def outcome(self, event: dict[str, Any], task: int, window: int) -> None:
        user_id, item_id, time = event["user_id"], event["item_id"], event["event_time"]
        row, shown_at = self.open.get((user_id, item_id), (-1, 0))
        if row < 0 or time - shown_at > window:
            return
        self.rows.label[row][task] = 1.0
        keys = (item_id, self.items[item_id][1], self.brands[item_id])
        for table in (self.total[task], *(self.rates[k][task] for k in keys)):
            table.decay(time)
            table.hits += 1
        if task == 0:
            words, category, price = self.items[item_id]
            user = self.users[user_id]
            for w in (*words, category):
                user.clicked[w] += 1
            user.clicks += 1
            user.price += (price - user.price) / min(user.clicks, 20)
            user.last = [*user.last[-9:], (time, words | {category})]

    def read(self, scenario: str, events: int, seed: int) -> int:
        """Returns the time of the last record."""
        time = 0
        for at, record in enumerate(simulate(scenario, events, seed)):
            if record.poison or record.value is None:
                continue
            event, time = json.loads(record.value), record.event_time
            if event["type"] == "item":
                self.item(event)
            elif record.truth:
                self.exposure(at, event, record.truth)
            elif event["type"] == "click":
                self.outcome(event, 0, 10 * MINUTE)
            elif event["type"] == "purchase":
                self.outcome(event, 1, DAY)
        return time


def _ne(label: Matrix, p: Matrix) -> float:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    base = label.mean()
    entropy = -(base * np.log(base) + (1 - base) * np.log(1 - base))
    return float(-(label * np.log(p) + (1 - label) * np.log(1 - p)).mean() / entropy)


def _fit(x: Matrix, y: Matrix, new: Matrix, linear: bool) -> Matrix:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = (
        make_pipeline(StandardScaler(), LogisticRegression())
        if linear
        else HistGradientBoostingClassifier(
            max_iter=80, learning_rate=0.1, max_leaf_nodes=15, early_stopping=False, random_state=0
        )
    )
    return np.asarray(model.fit(x, y).predict_proba(new)[:, 1])


def measure(scenario: str, events: int, seed: int) -> dict[str, dict[str, float]]:
    """{task: {predictor: NE}}, with the positive rate of the task as `rate`."""
    reader = Reader()
    end = reader.read(scenario, events, seed)
    rows = reader.rows
    time, record = np.array(rows.time), np.array(rows.record)
    label, truth = np.array(rows.label), np.array(rows.truth)
    said, features = np.array(rows.item_rate), np.array(rows.features)
    out: dict[str, dict[str, float]] = {}
    for task, (name, window) in enumerate((("click", 10 * MINUTE), ("purchase", DAY))):
        mature = time < end - window
        test = (record >= 0.8 * events) & mature
        train = (record >= 0.1 * events) & (record < 0.8 * events)
        simple = np.log(np.maximum(features[:, [0, 1, 2]], 1e-6))
        simple = np.concatenate([simple, features[:, [3]]], axis=1)
        y, y_test = label[train, task], label[test, task]
        out[name] = {
            "rate": float(y_test.mean()),
            "base rate": _ne(y_test, np.full(y_test.shape, label[train, task].mean())),
            "item rates": _ne(y_test, said[test, task]),
            "item, user, position": _ne(y_test, _fit(simple[train], y, simple[test], linear=True)),
            "histories": _ne(y_test, _fit(features[train], y, features[test], linear=False)),
            "truth": _ne(y_test, truth[test, task]),
        }
    return out


def shares(ladder: dict[str, float]) -> dict[str, float]:
    """Share of the distance from the base rate to the truth that each predictor closes."""
    whole = ladder["base rate"] - ladder["truth"]
    return {k: (ladder["base rate"] - v) / whole for k, v in ladder.items() if k != "rate"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenario", default="steady")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    ladders = measure(args.scenario, args.events, args.seed)
    worst = max(shares(ladder)["item rates"] for ladder in ladders.values())
    if args.json:
        print(json.dumps({
            "figure": "item-rate table closes at most this share of base rate to truth",
            "measured": worst, "target": ITEM_RATE_LIMIT, "holds": worst <= ITEM_RATE_LIMIT,
            "machine": platform.platform(), "events": args.events, "seed": args.seed,
            "scenario": args.scenario, "ladders": ladders,
        }))  # fmt: skip
        return
    for task, ladder in ladders.items():
        print(f"{task}: rate {ladder['rate']:.4f}")
        for name, share in shares(ladder).items():
            print(f"  {name:22} NE {ladder[name]:.4f}  closes {share:6.1%}")


if __name__ == "__main__":
    main()
