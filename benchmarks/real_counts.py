"""An independent count of what a backtest over a file of events must find: the JSON alone, no code of ours.

Exposures are the impressions, and every click, cart or purchase that no exposure of its user explains:
one that listed the item at most ten minutes before it (a day for a cart or purchase). A cart or purchase
belongs to the exposure whose item was touched last. A window counts when it ended two seconds before the last event.
The same record again within an hour counts once. Events are taken in the order of their times.

A touch that nothing explains has labels only when the shop knew the item: when a record of an earlier
chunk, not too long ago, had named it. A chunk is 256 records of a cut; a cut ends before a record that is
more than five seconds later than its first.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOUCHES = ("click", "add_to_cart", "purchase", "view")
KNOWN_TYPES = (*TOUCHES, "impression", "search", "item", "refund", "review")


@dataclass
class Counts:
    records: int = 0
    rejected: int = 0
    exposures: int = 0
    clicks: int = 0
    purchases: int = 0
    searches: int = 0


@dataclass
class Exposed:
    time: int
    items: list[str]
    search: bool
    alone: bool  # a touch that nothing explained
    labelled: bool  # its item was known
    touched: dict[str, int] = field(default_factory=dict)
    clicked: set[str] = field(default_factory=set)
    bought: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Rules:
    """Settings of the fold that counts depend on; times in ms."""

    click: int
    purchase: int
    dedup: int
    disorder: int
    cut_span: int
    cut_records: int
    chunk: int
    item_life: int


def count(path: Path, rules: Rules) -> Counts:
    counts = Counts()
    events = _read(path, rules, counts)
    known = _known(events, rules)
    seen: dict[str, int] = {}
    users: dict[str, list[Exposed]] = defaultdict(list)
    for number, event in enumerate(events):
        time, same = event["event_time"], json.dumps(event, sort_keys=True)
        repeated = time - seen.get(same, time - rules.dedup - 1) <= rules.dedup
        seen[same] = time
        if event["type"] == "item" or repeated:
            continue
        if event["type"] in ("impression", "search"):
            shown = list(dict.fromkeys(item["item_id"] for item in event.get("items", ())))
            search = event["type"] == "search" or event.get("surface") == "search"
            if shown:
                users[event["user_id"]].append(Exposed(time, shown, search, False, True))
        elif event["type"] in TOUCHES:
            _touch(users[event["user_id"]], event, known[number], rules)
    end = max(event["event_time"] for event in events) - rules.disorder
    for exposed in (e for opened in users.values() for e in opened):
        counts.exposures += 1
        if exposed.labelled and exposed.time + (0 if exposed.alone else rules.click) <= end:
            counts.clicks += len(exposed.clicked)
            counts.searches += len(exposed.clicked) * exposed.search
        if exposed.labelled and exposed.time + rules.purchase <= end:
            counts.purchases += len(exposed.bought)
    return counts


def _read(path: Path, rules: Rules, counts: Counts) -> list[dict[str, Any]]:
    """Events cut by cut in the order of their times; "chunk" numbers the chunks."""
    events: list[dict[str, Any]] = []
    cut: list[dict[str, Any]] = []
    chunk = 0
    opener = gzip.decompress if path.suffix == ".gz" else bytes
    for line in [*opener(path.read_bytes()).splitlines(), None]:
        event = json.loads(line) if line else None
        over = event and cut and event["event_time"] > cut[0]["event_time"] + rules.cut_span
        if over or len(cut) >= rules.cut_records or not event:
            cut.sort(key=lambda e: int(e["event_time"]))
            for place, one in enumerate(cut):
                chunk += place % rules.chunk == 0
                events.append(one | {"chunk": chunk})
            cut = []
        if event:
            counts.records += 1
            counts.rejected += event["type"] not in KNOWN_TYPES
            cut.append(event)
    return events


def _known(events: list[dict[str, Any]], rules: Rules) -> list[bool]:
    """Whether an earlier chunk had named the item of each event."""
    first: dict[str, tuple[int, int]] = {}  # chunk of the first mention, time of the last
    known = []
    for event in events:
        chunk, time = event.pop("chunk"), event["event_time"]
        named = [item["item_id"] for item in event.get("items", ())]
        named += [event["item_id"]] if "item_id" in event else []
        since, last = first.get(event.get("item_id", ""), (chunk, time))
        known.append(since < chunk and time - last <= rules.item_life)
        for item in named:
            since, last = first.get(item, (chunk, time))
            first[item] = (chunk if time - last > rules.item_life else since, time)
    return known


def _touch(opened: list[Exposed], event: dict[str, Any], known: bool, rules: Rules) -> None:
    """Give the touch to the exposure that explains it, or open one."""
    time, item, buying = event["event_time"], event["item_id"], event["type"] == "purchase"
    following = buying or event["type"] == "add_to_cart"
    window = rules.purchase if following else rules.click
    explains = [e for e in opened if item in e.items and e.time >= time - window]
    if not explains:
        search = event.get("surface") == "search"
        alone = Exposed(time, [item], search, True, known, {item: time}, {item})
        if buying:
            alone.bought.add(item)
        opened.append(alone)
        return
    exposed = explains[-1]
    if following:
        exposed = max(reversed(explains), key=lambda e: e.touched.get(item, -1))
    if buying:
        exposed.bought.add(item)
    exposed.touched[item] = time
    if time <= exposed.time + rules.click:
        exposed.clicked.add(item)
