"""Who visits: recent items, faded counts, the last query; by slot. And queries, by slot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stream_mtl.config import Features as Settings
from stream_mtl.shop.affinity import OWN_BUCKETS, WORDS, words_of
from stream_mtl.shop.catalogue import KINDS, normalised
from stream_mtl.shop.columns import Array, Column, Columns, Ints
from stream_mtl.shop.neighbours import Neighbours
from stream_mtl.shop.slots import Slots
from stream_mtl.state import State, nest, unnest

SEEN = 16  # items shown to a user that are remembered
AFTER_QUERY = 32  # items kept that were clicked after a query


class UserColumns(Columns):
    item: Array  # int32 [users, H] slots, newest first, -1 padded; one entry a run of the same item
    time: Ints  # [users, H] of the entry's newest event
    kind: Array  # int8 [users, H] strongest kind of the entry: CLICKED, CARTED, BOUGHT
    times: Array  # float32 [users, H] events of the run
    seen: Array  # int32 [users, SEEN] slots shown, newest first, -1 padded
    count: Array  # float64 [users, KINDS], steady half-life, in landmark units
    taste: Array  # float32 [users, 2, OWN_BUCKETS], slow half-life: tokens shown, acted upon
    domain: Array  # int32, of the last event
    device: Array  # int32 code, of the last event that gave one
    query: Array  # int32 slot of the last query, -1 = none
    query_ms: Ints
    first_ms: Ints
    scored_ms: Ints

    def __init__(self, history: int) -> None:
        super().__init__(
            {
                "item": Column("int32", (history,), -1),
                "time": Column("int64", (history,)),
                "kind": Column("int8", (history,)),
                "times": Column("float32", (history,)),
                "seen": Column("int32", (SEEN,), -1),
                "count": Column("float64", (KINDS,)),
                "taste": Column("float32", (2, OWN_BUCKETS)),
                "domain": Column("int32"),
                "device": Column("int32"),
                "query": Column("int32", (), -1),
                "query_ms": Column("int64"),
                "first_ms": Column("int64"),
                "scored_ms": Column("int64"),
            }
        )


class Users:
    """Histories hold no slot of an item that left: entries close up when one does."""

    def __init__(self, settings: Settings) -> None:
        self.slots = Slots(settings.max_users)
        self.columns = UserColumns(settings.history)

    def insert(self, user_id: str, time_ms: int) -> int:
        slot = self.slots.add(user_id, time_ms)
        self.columns.reserve(slot + 1)
        self.columns.first_ms[slot] = time_ms
        return slot

    def remember(self, slot: int, item: int, kind: int, time_ms: int) -> bool:
        """Put an item in front of the history; a repeat of the newest only strengthens it (False)."""
        c = self.columns
        if c.item[slot, 0] == item:
            c.time[slot, 0] = time_ms
            c.kind[slot, 0] = max(kind, int(c.kind[slot, 0]))
            c.times[slot, 0] += 1
            return False
        for array in (c.item, c.time, c.kind, c.times):
            array[slot, 1:] = array[slot, :-1]
        c.item[slot, 0], c.time[slot, 0], c.kind[slot, 0], c.times[slot, 0] = item, time_ms, kind, 1
        return True

    def see(self, slot: int, items: list[int]) -> None:
        """Items shown now, in front of those shown before."""
        row = [*items, *(i for i in self.columns.seen[slot].tolist() if i not in items)]
        self.columns.seen[slot] = row[:SEEN]

    def recent(self, slot: int, different_from: int, n: int) -> list[int]:
        """The newest n distinct items, newest first."""
        out: list[int] = []
        for item in self.columns.item[slot, : 2 * n].tolist():
            if item >= 0 and item != different_from and item not in out:
                out.append(item)
        return out[:n]

    def acts(self, slot: int, item: int, since_ms: int) -> int:
        """How often the user acted on an item since then, as far as the history reaches.

        A run of one item counts whole by its newest act: rather too much than too little.
        """
        c = self.columns
        own_H = (c.item[slot] == item) & (c.time[slot] >= since_ms)
        return int(c.times[slot][own_H].sum())

    def release(self, slot_R: Ints) -> list[str]:
        self.columns.reset(slot_R)
        return self.slots.release(slot_R)

    def forget_items(self, gone: Array) -> None:
        """`gone` marks item slots that left (bool a slot)."""
        c, used = self.columns, self.slots.used
        hit = (gone[c.item[:used]] & (c.item[:used] >= 0)).any(1)
        for slot in np.flatnonzero(hit).tolist():
            keep = (c.item[slot] >= 0) & ~gone[c.item[slot]]
            order = np.argsort(~keep, kind="stable")
            for array in (c.item, c.time, c.kind, c.times):
                array[slot] = array[slot, order]
            left = int(keep.sum())
            c.item[slot, left:] = -1
            for array in (c.time, c.kind, c.times):
                array[slot, left:] = 0
        seen = c.seen[:used]
        seen[gone[seen] & (seen >= 0)] = -1

    def forget_queries(self, query_R: Ints) -> None:
        c, used = self.columns, self.slots.used
        c.query[:used][np.isin(c.query[:used], query_R)] = -1

    def state(self) -> State:
        return {
            **nest("slots", self.slots.saved()),
            **nest("columns", self.columns.state(self.slots.used)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.slots.restore_saved(unnest("slots", state))
        self.columns.restore(unnest("columns", state))


class QueryColumns(Columns):
    domain: Array
    words: Array  # int16 [queries, WORDS] tokens, 0 padded
    vector: Array  # float16 [queries, E]
    unit: Array  # float32 [queries, E]

    def __init__(self, text_dim: int) -> None:
        super().__init__(
            {
                "domain": Column("int32"),
                "words": Column("int16", (WORDS,)),
                "vector": Column("float16", (text_dim,)),
                "unit": Column("float32", (text_dim,)),
            }
        )


class Queries:
    """What people asked for, and what they clicked after it."""

    def __init__(self, settings: Settings, text_dim: int) -> None:
        self.slots = Slots(settings.max_queries)
        self.columns = QueryColumns(text_dim)
        self.clicked = Neighbours(AFTER_QUERY)

    def insert(self, query: str, time_ms: int) -> int:
        slot = self.slots.add(query, time_ms)
        self.columns.reserve(slot + 1)
        self.clicked.reserve(slot + 1)
        words = words_of(query)
        self.columns.words[slot, : len(words)] = words
        return slot

    def set_vectors(self, slot_N: Ints, vector_NE: Array) -> None:
        self.columns.vector[slot_N] = vector_NE
        self.columns.unit[slot_N] = normalised(self.columns.vector[slot_N])

    def release(self, slot_R: Ints) -> list[str]:
        self.columns.reset(slot_R)
        self.clicked.reset(slot_R)
        return self.slots.release(slot_R)

    def state(self) -> State:
        columns = self.columns.state(self.slots.used)
        del columns["unit"]
        return {
            **nest("slots", self.slots.saved()),
            **nest("columns", columns),
            **nest("clicked", self.clicked.state(self.slots.used)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.slots.restore_saved(unnest("slots", state))
        columns = dict(unnest("columns", state))
        columns["unit"] = columns["vector"].float()
        self.columns.restore(columns)
        used = self.slots.used
        self.columns.unit[:used] = normalised(self.columns.vector[:used])
        self.clicked.restore(unnest("clicked", state))
