"""Somebody who wants items promoted and the model misled, among the honest users of a shop.

After every honest event comes one of the attack, at the same time: half of all events. The attacker knows what
everybody can see: the catalogue, and what is clicked most. The honest events are those of the scenario without an
attack, byte for byte, so what the attack costs is measured on the same rows.

One id is loud: lists of popular items that it never clicks, with promoted ones that it always does; clicks that lead
from popular items to promoted ones (fake co-visitation; Yang et al., NDSS 2017); purchases of what it never looked at.
Many ids look like anybody: a page, a click on a promoted item, a purchase of it now and then.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from stream_mtl.simulator import wire
from stream_mtl.simulator.record import Simulated
from stream_mtl.simulator.wire import Visit
from stream_mtl.simulator.words import DEVICES

USER = "u-attack"  # and a number, where they are many
PROMOTED = 5  # items of each domain
POPULAR = 20  # of each domain, that the attacker knows
_PLACES = 10
_LOOK_EVERY = 500  # events between two looks at what is popular
_BUYS = 0.5  # of many ids, those that buy what they clicked
_CLICKED = re.compile(rb'^\{"type":"click".*?"item_id":"([^"]+)"')


class Attacker:
    """Sees the honest records, and makes its own. A pure function of these, the number of ids and the seed."""

    def __init__(self, ids: int, seed: int) -> None:
        self._ids, self._rng = ids, np.random.Generator(np.random.PCG64(seed))
        self._numbers = itertools.count()
        self._cycles = itertools.count()
        self._items: dict[str, dict[str, None]] = {}  # domain -> items that can be had, in order
        self._domain_of: dict[str, str] = {}
        self._clicks: Counter[str] = Counter()
        self._seen = 0
        self._popular: dict[str, list[str]] = {}
        self._promoted: dict[str, list[str]] = {}
        self._script: Iterator[Simulated] = iter(())

    @property
    def promoted(self) -> frozenset[str]:
        return frozenset(item for items in self._promoted.values() for item in items)

    def watch(self, record: Simulated) -> None:
        """An honest record, as everybody can see its effect."""
        if record.topic_kind == "items":
            self._announced(record)
        elif record.value is not None and (found := _CLICKED.match(record.value)):
            self._clicks[found[1].decode()] += 1

    def act(self, time_ms: int) -> Simulated:
        """The next record of the attack."""
        if self._seen % _LOOK_EVERY == 0:
            self._look()
        self._seen += 1
        record = next(self._script, None)
        if record is None:
            self._script = self._loud() if self._ids == 1 else self._quiet()
            record = next(self._script)
        return _at(record, time_ms)

    def _announced(self, record: Simulated) -> None:
        item_id = (record.key or b"").decode()
        told: dict[str, Any] = json.loads(record.value) if record.value else {"available": False}
        domain = self._domain_of.setdefault(item_id, str(told.get("domain", "")))
        if told.get("available", True):
            self._items.setdefault(domain, {})[item_id] = None
        else:
            self._items.get(domain, {}).pop(item_id, None)

    def _look(self) -> None:
        for domain, items in sorted(self._items.items()):
            if domain not in self._promoted:
                chosen = self._rng.choice(len(items), PROMOTED, replace=False).tolist()
                self._promoted[domain] = [list(items)[k] for k in chosen]
            wanted = [item for item in items if item not in self._promoted[domain]]
            wanted.sort(key=lambda item: (-self._clicks[item], item))
            self._popular[domain] = wanted[:POPULAR]

    def _visit(self, number: int) -> Visit:
        domains = sorted(self._promoted)
        domain = domains[int(self._rng.integers(len(domains)))]
        user = USER if self._ids == 1 else f"{USER}-{number % self._ids:05d}"
        device = DEVICES[int(self._rng.integers(len(DEVICES)))]
        return Visit(user, f"sa{number:08d}", domain, device)

    def _some(self, pool: list[str], count: int) -> list[str]:
        return [pool[k] for k in self._rng.choice(len(pool), min(count, len(pool)), replace=False)]

    def _id(self) -> str:
        return f"a{next(self._numbers):08d}"

    def _loud(self) -> Iterator[Simulated]:
        """Ten records."""
        number = next(self._cycles)
        visit = self._visit(number)
        promoted = self._some(self._promoted[visit.domain], 4)
        popular = self._some(self._popular[visit.domain], 8)
        asked = f"ra{number:08d}"
        yield wire.impression(
            self._id(), 0, visit, "", asked, _shown(popular[:7] + promoted[:3]), ()
        )
        for place, item in enumerate(promoted[:3], 8):
            yield wire.click(self._id(), 0, visit, item, asked, place, "home")
        yield self._purchase(visit, number, promoted[0], asked)
        yield wire.click(self._id(), 0, visit, popular[7], "", 1, "home")
        yield wire.click(self._id(), 0, visit, promoted[0], "", 1, "home")
        yield self._purchase(visit, number, promoted[3], "")
        again = f"rb{number:08d}"
        shown = _shown(popular[:8] + promoted[1:3])
        yield wire.search(self._id(), 0, visit, visit.domain, again, shown, ())
        yield wire.click(self._id(), 0, visit, promoted[1], again, 9, "search")

    def _quiet(self) -> Iterator[Simulated]:
        """Three or four records."""
        number = next(self._cycles)
        visit = self._visit(number)
        promoted = self._some(self._promoted[visit.domain], 2)
        others = self._some(list(self._items[visit.domain]), 4)
        shown = self._some([*self._some(self._popular[visit.domain], 4), *others, *promoted], 10)
        shown = list(dict.fromkeys(shown))
        asked = f"ra{number:08d}"
        yield wire.impression(self._id(), 0, visit, "", asked, _shown(shown), ())
        yield wire.click(self._id(), 0, visit, shown[0], asked, 1, "home")
        place = shown.index(promoted[0]) + 1
        yield wire.click(self._id(), 0, visit, promoted[0], asked, place, "home")
        if self._rng.random() < _BUYS:
            yield self._purchase(visit, number, promoted[0], asked)

    def _purchase(self, visit: Visit, number: int, item: str, asked: str) -> Simulated:
        order = f"oa{number:08d}{item}"
        return wire.purchase(self._id(), 0, visit, item, order, 9.99, asked)


def _shown(items: list[str]) -> str:
    return ",".join(f'{{"item_id":"{item}","position":{k}}}' for k, item in enumerate(items, 1))


def _at(record: Simulated, time_ms: int) -> Simulated:
    """The same at a time: when it is sent is known when it is."""
    assert record.value is not None
    value = record.value.replace(b'"event_time":0,', b'"event_time":%d,' % time_ms, 1)
    return replace(record, value=value, event_time=time_ms, truth=None, attack=True)


def attacked(records: Iterator[Simulated], ids: int, seed: int) -> Iterator[Simulated]:
    """The honest records, and after each event one of the attack."""
    attacker = Attacker(ids, seed)
    for record in records:
        yield record
        attacker.watch(record)
        if record.topic_kind == "events":
            yield attacker.act(record.event_time)
