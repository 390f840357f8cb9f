"""Recall as a live figure: was the next click or purchase among the user's newest candidates, and in the list?

A candidate that was never named cannot be ranked, so the share found among the candidates is the ceiling of every list;
the share found in the published list is what a subscriber sees. Asked is every click and purchase of a user whose
newest candidates are still remembered, unless it repeats the item that the user is looking at: a repeat is no
prediction. What is remembered is bounded: one place a user, by hash; who comes later to a place takes it over, and
the other is no longer asked about. So in a large shop the figure is of the users who were served lately.

Legend: U users, C candidates, N asked events, S sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from stream_mtl.events import AnyEvent, Click, Purchase
from stream_mtl.hashing import mix64
from stream_mtl.shop import Shop
from stream_mtl.shop.columns import Array, Ints
from stream_mtl.state import State

PLACES = 8_192  # users whose candidates are remembered
LISTED = 1 << 15  # bit of a candidate that was published; the bits below are sources


class Recall:
    """`remember` what was computed, `observe` what was done next."""

    def __init__(self, shop: Shop, sources: Sequence[str], candidates: int) -> None:
        self._shop, self._sources = shop, tuple(sources)
        self._owner = np.zeros(PLACES, np.int64)  # hash of the user, 0 = nobody
        self._item = np.zeros((PLACES, candidates), np.uint32)  # low half of the item's hash
        self._named = np.zeros((PLACES, candidates), np.uint16)  # 0 where there is no candidate
        self._found = np.zeros(len(self._sources), np.int64)
        self._asked = self._among = self._listed = 0
        self._fresh: Counter[str] = Counter()

    def remember(self, user_U: Ints, item_UC: Array, named_UC: Array, listed_UP: Array) -> None:
        """The newest candidates of users (slots, -1 padded); `listed_UP`: places of those that were published."""
        known = np.flatnonzero(user_U >= 0)
        if not len(known):
            return
        hash_U = self._shop.users.slots.hashed[user_U[known]]
        item_UC, named_UC = item_UC[known], named_UC[known].copy()
        rows = np.arange(len(known))[:, None]
        named_UC[rows, listed_UP[known]] |= LISTED
        named_UC[item_UC < 0] = 0
        place_U, width = _places(hash_U), item_UC.shape[1]
        _, last_U = np.unique(place_U[::-1], return_index=True)
        keep = len(place_U) - 1 - last_U  # of two users of one place the later one
        place = place_U[keep]
        self._owner[place] = hash_U[keep]
        low_UC = _low(self._shop.items.slots.hashed[item_UC[keep]])
        # what stands at -1 is no item's: it depends on how far the catalogue's arrays have grown
        self._item[place, :width] = np.where(item_UC[keep] >= 0, low_UC, 0)
        self._named[place, :width] = named_UC[keep]
        self._named[place, width:] = 0

    def observe(self, events: Sequence[AnyEvent]) -> None:
        """Events that have not counted yet: call before the shop takes them in."""
        users, items = self._shop.users.slots.index, self._shop.items.slots.index
        newest = self._shop.users.columns.item
        looked_at: dict[int, int] = {}
        asked: list[tuple[int, int]] = []
        for event in events:
            if not isinstance(event, (Click, Purchase)):
                continue
            user, item = users.get(event.user_id, -1), items.get(event.item_id, -1)
            if user < 0:
                continue
            before = looked_at.get(user, int(newest[user, 0]))
            looked_at[user] = item
            if item < 0 or item != before:
                asked.append((user, item))
        if asked:
            self._judge(*np.array(asked, np.int64).T)

    def _judge(self, user_N: Ints, item_N: Ints) -> None:
        hash_N = self._shop.users.slots.hashed[user_N]
        place_N = _places(hash_N)
        own_N = self._owner[place_N] == hash_N
        place_N, item_N = place_N[own_N], item_N[own_N]
        match_NC = self._item[place_N] == _low(self._shop.items.slots.hashed[item_N])[:, None]
        match_NC &= (item_N >= 0)[:, None]  # nobody could have named an item that was not there
        named_N = np.where(match_NC, self._named[place_N], 0).max(1, initial=0)
        fresh = {
            "recall_asked": len(place_N),
            "recall_found": int(np.count_nonzero(named_N)),
            "recall_listed": int(np.count_nonzero(named_N & LISTED)),
        }
        self._asked += fresh["recall_asked"]
        self._among += fresh["recall_found"]
        self._listed += fresh["recall_listed"]
        self._found += [np.count_nonzero(named_N & (1 << bit)) for bit in range(len(self._sources))]
        self._fresh.update({name: count for name, count in fresh.items() if count})

    def take(self) -> Counter[str]:
        """Counts since the last call: asked, found among the candidates, found in the list."""
        fresh, self._fresh = self._fresh, Counter()
        return fresh

    def erase(self, user_hash: int) -> None:
        place = _places(np.array([user_hash]))
        if self._owner[place] == user_hash:
            self._owner[place], self._item[place], self._named[place] = 0, 0, 0

    def summary(self) -> dict[str, Any]:
        """Shares over the whole lineage, None before anyone was asked about. An item may have several sources."""

        def share(count: int) -> float | None:
            return count / self._asked if self._asked else None

        return {
            "asked": self._asked,
            "candidates": share(self._among),
            "list": share(self._listed),
            "sources": {
                name: share(int(found))
                for name, found in zip(self._sources, self._found, strict=True)
            },
        }

    def state(self) -> State:
        """Taken between cuts, when the counts have been taken."""
        used = np.flatnonzero(self._owner)
        return {
            "sources": list(self._sources),
            "sums": [self._asked, self._among, self._listed],
            "found": torch.from_numpy(self._found),
            "place": torch.from_numpy(used),
            "owner": torch.from_numpy(self._owner[used]),
            "item": torch.from_numpy(self._item[used].view(np.int32)),
            "named": torch.from_numpy(self._named[used].view(np.int16)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Sources that are counted no more are dropped, new ones start from nothing."""
        place = state["place"].numpy()
        width = min(self._item.shape[1], state["item"].shape[1])
        old = list(state["sources"])
        for array in (self._owner, self._item, self._named):
            array[:] = 0
        if tuple(old) == self._sources:
            self._owner[place] = state["owner"].numpy()
            self._item[place, :width] = state["item"].numpy().view(np.uint32)[:, :width]
            self._named[place, :width] = state["named"].numpy().view(np.uint16)[:, :width]
        self._asked, self._among, self._listed = state["sums"]
        found = dict(zip(old, state["found"].tolist(), strict=True))
        self._found[:] = [found.get(name, 0) for name in self._sources]


def _places(hash_N: Ints) -> Ints:
    return mix64(hash_N) % PLACES


def _low(hash_N: Array) -> Array:
    return (hash_N & 0xFFFFFFFF).astype(np.uint32)
