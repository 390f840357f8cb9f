"""An independent count of what a backtest over a file of events must find: the JSON alone, no code of ours.

Exposures are the impressions, and every click, cart or purchase that no exposure of its user explains:
one that listed the item at most ten minutes before it (a day for a purchase). A purchase belongs to the
exposure whose item was touched last. A window counts when it ended two seconds before the last event.
The same record again within an hour counts once. Events are taken in the order of their times.
"""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOUCHES = ("click", "add_to_cart", "purchase", "view")


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
    touched: dict[str, int] = field(default_factory=dict)
    clicked: set[str] = field(default_factory=set)
    bought: set[str] = field(default_factory=set)


def count(path: Path, click_ms: int, purchase_ms: int, dedup_ms: int, disorder_ms: int) -> Counts:
    counts, seen = Counts(), dict[str, int]()
    events: list[dict[str, Any]] = []
    for line in gzip.decompress(path.read_bytes()).splitlines():
        counts.records += 1
        event = json.loads(line)
        if "event_time" not in event or "type" not in event:
            counts.rejected += 1
            continue
        same = json.dumps(event, sort_keys=True)
        known = (
            event["type"] != "item"
            and event["event_time"] - seen.get(same, -dedup_ms - 1) <= dedup_ms
        )
        seen[same] = event["event_time"]
        if not known:
            events.append(event)
    events.sort(key=lambda event: int(event["event_time"]))
    users: dict[str, list[Exposed]] = defaultdict(list)
    for event in events:
        if event["type"] in ("impression", "search"):
            shown = list(dict.fromkeys(item["item_id"] for item in event.get("items", ())))
            search = event["type"] == "search" or event.get("surface") == "search"
            if shown:
                users[event["user_id"]].append(Exposed(event["event_time"], shown, search, False))
        elif event["type"] in TOUCHES:
            _touch(users[event["user_id"]], event, click_ms, purchase_ms)
    end = max(event["event_time"] for event in events) - disorder_ms
    for exposed in (e for opened in users.values() for e in opened):
        counts.exposures += 1
        if exposed.time + (0 if exposed.alone else click_ms) <= end:
            counts.clicks += len(exposed.clicked)
            counts.searches += len(exposed.clicked) * exposed.search
        if exposed.time + purchase_ms <= end:
            counts.purchases += len(exposed.bought)
    return counts


def _touch(opened: list[Exposed], event: dict[str, Any], click_ms: int, purchase_ms: int) -> None:
    """Give the touch to the exposure that explains it, or open one."""
    time, item, buying = event["event_time"], event["item_id"], event["type"] == "purchase"
    window = purchase_ms if buying else click_ms
    explains = [e for e in opened if item in e.items and e.time >= time - window]
    if not explains:
        search = event.get("surface") == "search"
        alone = Exposed(time, [item], search, True, {item: time}, {item})
        if buying:
            alone.bought.add(item)
        opened.append(alone)
        return
    exposed = explains[-1]
    if buying:
        exposed = max(reversed(explains), key=lambda e: e.touched.get(item, -1))
        exposed.bought.add(item)
    exposed.touched[item] = time
    if time <= exposed.time + click_ms:
        exposed.clicked.add(item)
