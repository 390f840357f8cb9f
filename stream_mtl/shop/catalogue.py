"""What the shop sells: fields, faded counts, links between items, and title vectors, by slot."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from stream_mtl.config import Features as Settings
from stream_mtl.events import Item
from stream_mtl.shop.affinity import TOKENS, tokens_of
from stream_mtl.shop.columns import Array, Column, Columns, Ints, add_at
from stream_mtl.shop.leaders import Leaders
from stream_mtl.shop.neighbours import Neighbours
from stream_mtl.shop.slots import Slots, Vocabulary
from stream_mtl.state import State, nest, unnest

SHOWN, CLICKED, CARTED, BOUGHT = range(4)  # kinds of counts, and of history entries
KINDS = 4
FAST, STEADY, SLOW = range(3)  # indices of the half-lives below
SPEEDS = (1 / 24, 1.0, 30.0)  # in units of `features.half_life_ms`
DEMAND = np.array([0.02, 1.0, 1.0, 1.0])  # how much a count of each kind says about being wanted
TRANSITIONS = 32  # links kept from an item to what came next
LISTED, RISING, OF_CATEGORY = 100, 40, 60  # lengths of the top lists
PRICES = 1_000  # prices that a category's running mean remembers


class ItemColumns(Columns):
    category: Array
    brand: Array
    domain: Array
    tokens: Array  # int16 [items, TOKENS], of title, category and brand
    log_price: Array  # float32 log(1 + price), NaN where not known
    listed: Array  # bool, the catalogue has announced it, and not withdrawn since
    offered: Array  # bool, available and not withdrawn
    first_ms: Ints
    count: Array  # float64 [items, KINDS, speeds], in landmark units
    score: Array  # float64 [items, speeds], wantedness: follows from the above
    titled: Array  # bool, has a vector
    vector: Array  # float16 [items, E], zeros without a title
    unit: Array  # float32 [items, E], normalised

    def __init__(self, text_dim: int) -> None:
        super().__init__(
            {
                "category": Column("int32"),
                "brand": Column("int32"),
                "domain": Column("int32"),
                "tokens": Column("int16", (TOKENS,)),
                "log_price": Column("float32", (), np.nan),
                "listed": Column("bool"),
                "offered": Column("bool", (), True),
                "first_ms": Column("int64"),
                "count": Column("float64", (KINDS, len(SPEEDS))),
                "score": Column("float64", (len(SPEEDS),)),
                "titled": Column("bool"),
                "vector": Column("float16", (text_dim,)),
                "unit": Column("float32", (text_dim,)),
            }
        )


class CategoryColumns(Columns):
    price_mean: Array  # float64, of log(1 + price)
    prices: Array  # float64, how many it rests on

    def __init__(self) -> None:
        super().__init__({"price_mean": Column("float64"), "prices": Column("float64")})


class Catalogue:
    """Items by slot. `used` bounds every array; rows of free slots are as good as new."""

    def __init__(self, settings: Settings, text_dim: int) -> None:
        self.slots = Slots(settings.max_items)
        self.columns = ItemColumns(text_dim)
        self.titles: list[str] = []
        self.domains, self.brands = Vocabulary(256), Vocabulary(16_384)
        self.categories = Vocabulary(16_384)
        self.category_columns = CategoryColumns()
        self.covisits = Neighbours(settings.neighbours)
        self.transitions = Neighbours(TRANSITIONS)
        self._tables: tuple[Columns, ...] = (self.columns, self.covisits, self.transitions)
        self.popular = Leaders(LISTED)  # by domain; group 0 is the whole shop
        self.rising = Leaders(RISING)
        self.of_category = Leaders(OF_CATEGORY)
        self._stale = False  # an item with counts left, moved or fell: lists must be made anew
        self.on_titles: Callable[[Ints], None] | None = (
            None  # told of slots with another title vector
        )

    @property
    def used(self) -> int:
        return self.slots.used

    def insert(self, item_id: str, time_ms: int) -> int:
        """A new slot; the caller has made room."""
        slot = self.slots.add(item_id, time_ms)
        for table in self._tables:
            table.reserve(slot + 1)
        if slot == len(self.titles):
            self.titles.append("")
        self.columns.first_ms[slot] = time_ms
        return slot

    def place(self, slots: Sequence[int], domain: str) -> None:
        """An item stands in the first domain that it is seen in, until its record says otherwise."""
        if domain:
            placed = self.columns.domain
            for slot in slots:
                if not placed[slot]:
                    self._move("domain", slot, self.domains.code(domain))

    def upsert(self, slot: int, item: Item) -> bool:
        """Fields that the record gives replace the old ones; True when the title is new."""
        columns = self.columns
        if item.withdrawn:
            self._offer(slot, False)
            columns.listed[slot] = False
            return False
        if item.available is not None or not columns.listed[slot]:
            self._offer(slot, item.available is not False)
        columns.listed[slot] = True
        if item.domain:
            self._move("domain", slot, self.domains.code(item.domain))
        if item.category:
            domain = self.domains.names[columns.domain[slot]]
            self._move("category", slot, self.categories.code(f"{domain}\0{item.category}"))
        if item.brand:
            columns.brand[slot] = self.brands.code(item.brand)
        if item.price is not None:
            log_price = np.float32(math.log1p(max(item.price, 0.0)))
            if log_price != columns.log_price[slot]:
                columns.log_price[slot] = log_price
                self._learn_price(int(columns.category[slot]), float(log_price))
        fresh = bool(item.title) and item.title != self.titles[slot]
        if fresh:
            self.titles[slot] = item.title
        columns.tokens[slot] = tokens_of(
            self.titles[slot],
            self.categories.names[columns.category[slot]],
            self.brands.names[columns.brand[slot]],
        )
        return fresh

    def set_vectors(self, slot_N: Ints, vector_NE: Array) -> None:
        self.columns.vector[slot_N] = vector_NE
        self.columns.titled[slot_N] = True
        self.columns.unit[slot_N] = normalised(self.columns.vector[slot_N])
        self._tell(slot_N)

    def count(self, slot_N: Ints, kind_N: Ints, weight_NS: Array) -> None:
        """Add faded counts, then let the items that gained rise in the lists."""
        speed_S = np.arange(weight_NS.shape[1])
        add_at(self.columns.count, (slot_N[:, None], kind_N[:, None], speed_S), weight_NS)
        self._stale |= bool((weight_NS < 0).any())
        self._refresh(np.unique(slot_N))

    def release(self, slot_R: Ints) -> list[str]:
        """Forget items wholly: nothing of them may reach the next holder of a slot. Returns ids."""
        columns, gone = self.columns, np.zeros(self.used, bool)
        gone[slot_R] = True
        self._stale |= bool(columns.count[slot_R].any())
        for slot in slot_R.tolist():
            self.titles[slot] = ""
        self.covisits.forget(gone, self.used)
        self.transitions.forget(gone, self.used)
        for table in self._tables:
            table.reset(slot_R)
        self._tell(slot_R)
        names = self.slots.release(slot_R)
        self.settle()
        return names

    def _tell(self, slot_N: Ints) -> None:
        if self.on_titles is not None:
            self.on_titles(slot_N)

    def _score(self, slot_N: Ints) -> None:
        """How much items are wanted, in landmark units; 0 when not offered."""
        c = self.columns
        wanted_NS = (c.count[slot_N] * DEMAND[:, None]).sum(1)
        c.score[slot_N] = np.where(c.offered[slot_N][:, None], wanted_NS, 0.0)

    def sellable(self) -> Array:
        """bool [used]: slots of items that may be shown."""
        return self.columns.offered[: self.used] & self.slots.in_use()

    def _offer(self, slot: int, offered: bool) -> None:
        if bool(self.columns.offered[slot]) != offered:
            self.columns.offered[slot] = offered
            self._stale |= bool(self.columns.count[slot].any())

    def _move(self, field: str, slot: int, code: int) -> None:
        column = getattr(self.columns, field)
        if column[slot] != code:
            column[slot] = code
            self._stale |= bool(self.columns.count[slot].any())

    def _learn_price(self, category: int, log_price: float) -> None:
        table = self.category_columns
        table.reserve(category + 1)
        table.prices[category] = min(table.prices[category] + 1, PRICES)
        table.price_mean[category] += (log_price - table.price_mean[category]) / table.prices[
            category
        ]

    def _refresh(self, raised_N: Ints) -> None:
        """Top lists: rebuilt when something left or moved, else those that grew are taken in."""
        if self._stale:
            self.rebuild_lists()
        elif len(raised_N):
            self._score(raised_N)
            for leaders, group, speed in self._lists():
                score = self.columns.score[:, speed]
                inside = raised_N[group[raised_N] > 0]
                leaders.raised(group[inside].astype(np.int64), inside, score)
                if leaders is not self.of_category:
                    leaders.raised(np.zeros(len(raised_N), np.int64), raised_N, score)

    def settle(self) -> None:
        """Make lists anew where an item left, moved, fell, or was withdrawn."""
        if self._stale:
            self.rebuild_lists()

    def rebuild_lists(self) -> None:
        """The top lists from nothing; equal to what taking in one by one would have made."""
        self._score(np.arange(self.used))
        for leaders, group, speed in self._lists():
            score = self.columns.score[: self.used, speed]
            leaders.rebuild(group, score)
            if leaders is not self.of_category:
                leaders.write(0, np.flatnonzero(score > 0), score)
        self._stale = False

    def _lists(self) -> tuple[tuple[Leaders, Array, int], ...]:
        domain, category = self.columns.domain[: self.used], self.columns.category[: self.used]
        return (
            (self.popular, domain, SLOW),
            (self.rising, domain, FAST),
            (self.of_category, category, SLOW),
        )

    def rescale(self, factor_S: Sequence[float]) -> None:
        """A new landmark of each speed: multiply the sums."""
        for speed, factor in enumerate(factor_S):
            if factor != 1.0:
                self.columns.count[:, :, speed] *= factor
                self._stale = True  # what faded to nothing leaves the lists

    def state(self) -> State:
        used = self.used
        columns = self.columns.state(used)
        del columns["unit"], columns["score"]  # follow from the others
        return {
            "titles": list(self.titles),
            "domains": self.domains.names[1:],
            "categories": self.categories.names[1:],
            "brands": self.brands.names[1:],
            **nest("slots", self.slots.saved()),
            **nest("columns", columns),
            **nest(
                "category",
                self.category_columns.state(
                    min(len(self.categories), self.category_columns.capacity)
                ),
            ),
            **nest("covisits", self.covisits.state(used)),
            **nest("transitions", self.transitions.state(used)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.titles = list(state["titles"])
        for name in ("domains", "categories", "brands"):
            getattr(self, name).restore(["", *state[name]])
        self.slots.restore_saved(unnest("slots", state))
        columns = dict(unnest("columns", state))
        columns["unit"] = columns["vector"].float()
        columns["score"] = columns["count"][:, 0].clone()  # made anew below
        self.columns.restore(columns)
        self.columns.unit[: self.used] = normalised(self.columns.vector[: self.used])
        self.category_columns.restore(unnest("category", state))
        self.covisits.restore(unnest("covisits", state))
        self.transitions.restore(unnest("transitions", state))
        self.rebuild_lists()


def normalised(vector_NE: Array) -> Array:
    """Rows of unit length in float32; zero rows stay zero."""
    wide = vector_NE.astype(np.float32)
    unit: Array = wide / np.maximum(np.sqrt((wide * wide).sum(1, keepdims=True)), np.float32(1e-6))
    return unit
