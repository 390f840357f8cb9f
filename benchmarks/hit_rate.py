"""What a subscriber sees: is the next click or purchase in the newest list published before it?

    python -m benchmarks.hit_rate EVENTS.jsonl[.gz] [SCORES.jsonl[.gz]] [--length 20]

SCORES are the records of `stream-mtl backtest --scores`. The rules:

- A list counts from the first event later than its `event_time`. The newest list of the user that has
  entries is asked, on the surface of the event, else `home`; a user without one gets the popular list of
  the domain.
- Asked is every click and purchase after the first fifth of the events, unless it repeats the very last
  item of its user: a repeat is no prediction.
- The baselines see the same events, each one an instant after it was asked about: popularity in the
  domain (faded by a tenth every 2,000 clicks and purchases), the user's own recent items, items visited
  together with the last ten (kNN), and that filled up with what is popular.
"""

from __future__ import annotations

import gzip
import json
import sys
from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, cast
from zlib import crc32

from benchmarks import report
from benchmarks.report import Figure

ASKED = ("click", "purchase")
HALVES = ("chosen", "reported")
BASELINES = ("popular", "recent", "knn", "knn+popular")
WARM_UP = 5  # the first 1/5 of the events is not asked about
FADE_EVERY, FADE = 2_000, 0.9
TOGETHER, LAST, BACK, REMEMBERED = 5, 10, 0.8, 30
LINKS, LINKS_LEFT = 300, 150  # an item with more links keeps the strongest

Event = Mapping[str, Any]


@dataclass
class Rate:
    """Hits among those asked."""

    hits: int = 0
    asked: int = 0

    @property
    def share(self) -> float:
        return self.hits / self.asked if self.asked else 0.0


@dataclass
class Lists:
    """Published lists by key, in the order of publication: event times, and items by surface."""

    times: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    items: dict[str, list[dict[str, list[str]]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, record: Event) -> None:
        """One score record; a tombstone (no lists) sends its user back to what is popular."""
        lists = record.get("lists") or {}
        self.times[record["key"]].append(record["event_time"])
        self.items[record["key"]].append(
            {surface: [entry["item_id"] for entry in entries] for surface, entries in lists.items()}
        )

    def newest(self, event: Event) -> list[str]:
        """What the event's user saw just before it."""
        for key in (f"user:{event['user_id']}", f"popular:{event.get('domain') or ''}"):
            place = bisect_left(self.times.get(key, ()), event["event_time"])
            if place:
                by_surface = self.items[key][place - 1]
                found = by_surface.get(event.get("surface") or "") or by_surface.get("home")
                if found:
                    return found
        return []


class Baselines:
    """Simple recommenders that learn online."""

    def __init__(self) -> None:
        self.history: dict[str, list[str]] = defaultdict(list)
        self._popular: dict[str | None, Counter[str]] = defaultdict(Counter)
        self._links: dict[str, Counter[str]] = defaultdict(Counter)
        self._learnt = 0

    def learn(self, event: Event) -> None:
        item, history = event["item_id"], self.history[event["user_id"]]
        self._learnt += 1
        if self._learnt % FADE_EVERY == 0:
            for counts in self._popular.values():
                for other in counts:
                    counts[other] *= FADE  # type: ignore[assignment]
        self._popular[event.get("domain")][item] += 1
        for other in set(history[-TOGETHER:]) - {item}:
            self._link(other, item)
            self._link(item, other)
        history.append(item)
        del history[:-REMEMBERED]

    def _link(self, item: str, other: str) -> None:
        links = self._links[item]
        links[other] += 1
        if len(links) > LINKS:
            self._links[item] = Counter(dict(links.most_common(LINKS_LEFT)))

    def lists(self, event: Event, length: int) -> dict[str, list[str]]:
        history = self.history[event["user_id"]]
        popular = [item for item, _ in self._popular[event.get("domain")].most_common(length)]
        near: Counter[str] = Counter()
        for back, item in enumerate(reversed(history[-LAST:])):
            for other, strength in self._links[item].items():
                near[other] += strength * BACK**back  # type: ignore[assignment]
        knn = [item for item, _ in near.most_common(length)]
        filled = knn + [item for item in popular if item not in knn]
        return dict(zip(BASELINES, (popular, history[-length:], knn, filled[:length]), strict=True))


def half(event: Event) -> str:
    """`chosen` or `reported`, by the user: settings that were chosen on some users are reported on the others."""
    return HALVES[crc32(str(event["user_id"]).encode()) % 2]


def measure(
    events: Sequence[Event], lists: Lists | None = None, lengths: Sequence[int] = (20,)
) -> dict[tuple[str, str], Rate]:
    """Rates by (list, group). Lists are the baselines, and per length "published@20" and so on; groups are
    all, known (the user had clicked before), click, purchase, the halves of the users, and domain:<name>."""
    events = sorted(events, key=lambda e: cast(int, e["event_time"]))
    baselines, waiting = Baselines(), deque[Event]()
    rates: dict[tuple[str, str], Rate] = defaultdict(Rate)
    for number, event in enumerate(events):
        if event["type"] not in ASKED:
            continue
        while waiting and waiting[0]["event_time"] < event["event_time"]:
            baselines.learn(waiting.popleft())
        history = baselines.history[event["user_id"]]
        repeated = bool(history) and history[-1] == event["item_id"]
        if number >= len(events) // WARM_UP and not repeated:
            groups = ["all", event["type"], f"domain:{event.get('domain') or ''}", half(event)]
            groups += ["known"] if history else []
            shown = baselines.lists(event, lengths[0])
            newest = lists.newest(event) if lists else []
            for length in lengths if lists else ():
                shown[f"published@{length}"] = newest[:length]
            for name, entries in shown.items():
                for group in groups:
                    rate = rates[name, group]
                    rate.asked += 1
                    rate.hits += event["item_id"] in entries
        waiting.append(event)
    return dict(rates)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file of lines."""
    with cast(TextIO, gzip.open(path, "rt") if path.suffix == ".gz" else path.open()) as lines:
        for line in lines:
            yield json.loads(line)


def read_lists(records: Iterable[Event]) -> Lists:
    lists = Lists()
    for record in records:
        if not record["key"].startswith("query:"):
            lists.add(record)
    return lists


def main(argv: Sequence[str] | None = None) -> int:
    arguments = report.parser(__doc__)
    arguments.add_argument("events", type=Path)
    arguments.add_argument("scores", type=Path, nargs="?")
    arguments.add_argument("--length", type=int, default=20, help="entries of a list that count")
    given = arguments.parse_args(argv)
    lists = read_lists(read(given.scores)) if given.scores else None
    rates = measure(list(read(given.events)), lists, (given.length,))
    figures = [
        Figure(f"{name}, {group} ({rate.asked} asked)", rate.share, "", None)
        for (name, group), rate in rates.items()
    ]
    return report.tell(figures, given.json)


if __name__ == "__main__":
    sys.exit(main())
