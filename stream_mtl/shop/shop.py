"""The shop as the stream has shown it: the one place where events become counts, histories and links."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

import numpy as np
import torch

from stream_mtl.config import Features as Settings
from stream_mtl.events import (
    AddToCart,
    AnyEvent,
    Click,
    Event,
    Impression,
    Item,
    Profile,
    Purchase,
    Refund,
    Review,
    Search,
    View,
)
from stream_mtl.hashing import hash64
from stream_mtl.settings_defence import Defence
from stream_mtl.shop import affinity
from stream_mtl.shop.buffers import Counts, Pairs
from stream_mtl.shop.catalogue import (
    BOUGHT,
    CARTED,
    CLICKED,
    SHOWN,
    SLOW,
    SPEEDS,
    STEADY,
    Catalogue,
)
from stream_mtl.shop.columns import Array, Ints, add_at
from stream_mtl.shop.decay import Fading
from stream_mtl.shop.profiles import Profiles
from stream_mtl.shop.slots import Slots, Vocabulary
from stream_mtl.shop.users import Queries, Users
from stream_mtl.state import State, nest, unnest
from stream_mtl.user_share import UserShare

TOGETHER = 5  # distinct recent items that a click is linked with
QUERY_LASTS_MS = 30 * 60_000  # a click this long after a query counts as an answer to it
INFLUENCE_HALF_LIFE = 10_000  # events that count, over which one user's share of them is taken
CHECKS = 100  # expiry is looked for this many times in the shortest time to live


class PendingText(NamedTuple):
    """A text that waits for its vector; `generation` tells whether the slot is still its own."""

    kind: str  # "item" or "query"
    slot: int
    generation: int
    text: str


class Shop:
    """`apply` folds events in, in order; everything else reads, or lets go of what is old."""

    def __init__(
        self,
        settings: Settings,
        text_dim: int,
        attributes: Mapping[str, Sequence[str] | int] | None = None,
        defence: Defence | None = None,
    ) -> None:
        """`attributes` of the profile that are to be remembered: their values, or how many there may be.

        `defence`: how much of the counts and links one user may be; None: no limit.
        """
        self.settings, self.text_dim = settings, text_dim
        self.items = Catalogue(settings, text_dim)
        self.users = Users(settings)
        self.profiles = Profiles(attributes or {})
        self.queries = Queries(settings, text_dim)
        self.devices = Vocabulary(256)
        self.fadings = tuple(Fading(settings.half_life_ms * speed) for speed in SPEEDS)
        self.crowd_2N = np.zeros((2, affinity.BUCKETS))  # tokens shown, acted upon, slow half-life
        self.link_fading = Fading(settings.half_life_ms * SPEEDS[-1])
        self._influence = UserShare(1.0, 1, INFLUENCE_HALF_LIFE)
        self._item_burst, self._item_period_ms = 0, 0
        if defence is not None:
            self._influence = UserShare(
                defence.user_share, defence.least_events, INFLUENCE_HALF_LIFE
            )
            self._item_burst, self._item_period_ms = defence.item_burst, defence.item_period_ms
        self._uncounted = 0
        self.now_ms = 0  # newest event time seen
        self.keep_visits = False  # whoever takes them says so
        self._visits: list[tuple[int, int, list[int]]] = []
        self._touched: dict[str, None] = {}  # keys of lists that should be made anew, in order
        self._left: list[str] = []  # keys of lists whose owner left for want of room
        self._texts: list[PendingText] = []
        self._next_check_ms = 0
        self._start_buffers()

    # ---- events in

    def apply(self, events: Sequence[AnyEvent]) -> None:
        """Fold events in, in order; counts and links of all of them are added at the end."""
        for event in events:
            if event.time_ms > self.now_ms:
                self.now_ms = event.time_ms
            if isinstance(event, Item):
                self._announce(event)
            else:
                self._observe(event)
        self._flush()
        self.items.settle()

    def _announce(self, event: Item) -> None:
        slot = self.item_slot(event.item_id, event.time_ms)
        if self.items.upsert(slot, event):
            generation = int(self.items.slots.generation[slot])
            self._want_vector("item", slot, generation, event.title)

    def _observe(self, event: Event) -> None:
        user = self.user_slot(event.user_id, event.time_ms)
        if event.domain:
            self.users.columns.domain[user] = self.items.domains.code(event.domain)
        if event.device:
            self.users.columns.device[user] = self.devices.code(event.device)
        self._touched[f"user:{event.user_id}"] = None
        if isinstance(event, (Impression, Search)):
            self._show(user, event)
        elif isinstance(event, Click):
            self._act(user, event, event.item_id, CLICKED, event.query)
        elif isinstance(event, View):
            self._act(user, event, event.item_id, CLICKED, "")
        elif isinstance(event, AddToCart):
            self._act(user, event, event.item_id, CARTED, "")
        elif isinstance(event, Purchase):
            self._act(user, event, event.item_id, BOUGHT, "")
        elif isinstance(event, Refund):
            item = self.item_slot(event.item_id, event.time_ms)
            if self._counts_for(user):
                self._counts.add([item], user, BOUGHT, event.time_ms, -1.0)
        elif isinstance(event, Review):
            self.item_slot(event.item_id, event.time_ms)
        elif isinstance(event, Profile):
            self.profiles.learn(user, event.attributes)

    def _show(self, user: int, event: Impression | Search) -> None:
        if event.query:
            self._ask(user, event, event.query)
        if not event.items:
            return
        time_ms, domain = event.time_ms, event.domain
        counted = self._counts_for(user)
        slots = self.items.slots.known([entry.item_id for entry in event.items], time_ms)
        if slots is not None:
            self.items.place(slots, domain)
            if counted:
                self._counts.add(slots, user, SHOWN, time_ms, 1.0)
            self.users.see(user, slots)
            return
        shown = []
        for entry in event.items:  # a new item may put out an old one, even of this very list
            slot = self.item_slot(entry.item_id, time_ms)
            self.items.place([slot], domain)
            if counted:
                self._counts.add([slot], user, SHOWN, time_ms, 1.0)
            shown.append(slot)
        self.users.see(user, shown)

    def _ask(self, user: int, event: Event, text: str) -> int:
        query = self.query_slot(text, event.time_ms)
        columns = self.users.columns
        columns.query[user], columns.query_ms[user] = query, event.time_ms
        if event.domain:
            self.queries.columns.domain[query] = self.items.domains.code(event.domain)
        self._touched[f"query:{text}"] = None
        return query

    def _act(self, user: int, event: Event, item_id: str, kind: int, query_text: str) -> None:
        """A click, view, cart or purchase: counts, links to what came before, the history.

        Beyond its user's share, or its user's share of the item, it is in the user's own history alone.
        """
        item, time_ms = self.item_slot(item_id, event.time_ms), event.time_ms
        self.items.place([item], event.domain)
        self._touched["popular:"] = None
        self._touched[f"popular:{event.domain}"] = None
        fresh = not self._item_burst or (
            self.users.acts(user, item, time_ms - self._item_period_ms) < self._item_burst
        )
        counted = self._counts_for(user, fresh)
        if counted:
            self._counts.add([item], user, kind, time_ms, 1.0)
        columns = self.users.columns
        query = self._ask(user, event, query_text) if query_text else int(columns.query[user])
        if counted and query >= 0 and time_ms - columns.query_ms[user] <= QUERY_LASTS_MS:
            self._answers.add(query, item, time_ms)
        previous = self.users.recent(user, item, TOGETHER)
        if counted:
            self._covisits.add_both_ways(item, previous, time_ms)
        if self.users.remember(user, item, kind, time_ms) and previous and counted:
            self._moves.add(previous[0], item, time_ms)
            if self.keep_visits:
                who = int(self.users.slots.hashed[user])
                self._visits.append((who, item, previous))

    def _counts_for(self, user: int, fresh: bool = True) -> bool:
        """Whether an event of this user moves what everybody shares."""
        counted = fresh and self._influence.admit(int(self.users.slots.hashed[user]))
        self._uncounted += not counted
        return counted

    def take_uncounted(self) -> int:
        """Events since the last call that moved their user's history alone."""
        uncounted, self._uncounted = self._uncounted, 0
        return uncounted

    # ---- slots, made on first sight

    def item_slot(self, item_id: str, time_ms: int) -> int:
        slots = self.items.slots
        slot = slots.index.get(item_id)
        if slot is not None:
            slots.touch(slot, time_ms)
            return slot
        if slots.full():
            self._let_items_go(slots.longest_untouched())
        return self.items.insert(item_id, time_ms)

    def user_slot(self, user_id: str, time_ms: int) -> int:
        slots = self.users.slots
        slot = slots.index.get(user_id)
        if slot is not None:
            slots.touch(slot, time_ms)
            return slot
        if slots.full():
            self._left += [f"user:{name}" for name in self._let_users_go(slots.longest_untouched())]
        return self.users.insert(user_id, time_ms)

    def query_slot(self, query: str, time_ms: int) -> int:
        slots = self.queries.slots
        slot = slots.index.get(query)
        if slot is not None:
            slots.touch(slot, time_ms)
            return slot
        if slots.full():
            self._left += [
                f"query:{name}" for name in self._let_queries_go(slots.longest_untouched())
            ]
        slot = self.queries.insert(query, time_ms)
        self._want_vector("query", slot, int(slots.generation[slot]), query)
        return slot

    def user_slots(self, names: Sequence[str]) -> Ints:
        """-1 for someone unknown."""
        return _look_up(self.users.slots, names)

    def query_slots(self, names: Sequence[str]) -> Ints:
        return _look_up(self.queries.slots, names)

    def item_slots(self, names: Sequence[str]) -> Ints:
        return _look_up(self.items.slots, names)

    def domain_codes(self, names: Sequence[str]) -> Ints:
        """0 for a domain never seen."""
        get = self.items.domains.index.get
        return np.array([get(name, 0) for name in names], np.int64)

    def item_ids(self, slot_N: Array) -> list[str]:
        names = self.items.slots.names
        return [names[slot] for slot in slot_N.tolist()]

    def take_visits(self) -> list[tuple[int, int, list[int]]]:
        """Since the last call: hash of the user, item, and the items before it, newest first. Taken at every cut."""
        visits, self._visits = self._visits, []
        return visits

    # ---- who needs a list, who leaves

    def take_touched(self) -> list[str]:
        """Keys `user:…`, `query:…`, `popular:…` that events concerned since the last call, in order."""
        keys, self._touched = list(self._touched), {}
        return keys

    def quiet_users(self, n: int, exclude: AbstractSet[str]) -> list[str]:
        """The n known users scored longest ago (never: first), ties by slot."""
        if n <= 0 or not len(self.users.slots):
            return []
        names = self.users.slots.names
        live = np.flatnonzero(self.users.slots.in_use())
        wanted = min(n + len(exclude), len(live))
        scored = self.users.columns.scored_ms[live]
        bound = np.partition(scored, wanted - 1)[wanted - 1]
        oldest = live[scored <= bound]
        oldest = oldest[np.argsort(self.users.columns.scored_ms[oldest], kind="stable")]
        return [names[s] for s in oldest[:wanted].tolist() if names[s] not in exclude][:n]

    def mark_scored(self, slot_U: Ints, time_ms: int) -> None:
        self.users.columns.scored_ms[slot_U[slot_U >= 0]] = time_ms

    def expire(self, now_ms: int) -> list[str]:
        """Let go of what was not seen within its time to live; keys of lists that need a tombstone."""
        keys, self._left = self._left, []
        settings = self.settings
        if now_ms >= self._next_check_ms:
            shortest = min(settings.user_ttl_ms, settings.item_ttl_ms, settings.query_ttl_ms)
            self._next_check_ms = now_ms + shortest // CHECKS
            users = self.users.slots.untouched_since(now_ms - settings.user_ttl_ms)
            queries = self.queries.slots.untouched_since(now_ms - settings.query_ttl_ms)
            items = self.items.slots.untouched_since(now_ms - settings.item_ttl_ms)
            keys += [f"user:{name}" for name in self._let_users_go(users)]
            keys += [f"query:{name}" for name in self._let_queries_go(queries)]
            self._let_items_go(items)
        back = (
            self.users.slots.index,
            self.queries.slots.index,
        )  # left for want of room, but returned
        return [
            k
            for k in dict.fromkeys(keys)
            if k.partition(":")[2] not in back[k.startswith("query:")]
        ]

    def erase_user(self, user_id: str) -> bool:
        """Everything kept of one person; sums over all users stay. False when there was nothing."""
        self._influence.erase(hash64(user_id))
        slot = self.users.slots.index.get(user_id)
        if slot is None:
            return False
        self._let_users_go(np.array([slot]))
        return True

    def _let_users_go(self, slot_R: Ints) -> list[str]:
        if not len(slot_R):
            return []
        self._flush()
        names = self.users.release(slot_R)
        self.profiles.release(slot_R)
        for name in names:
            self._touched.pop(f"user:{name}", None)
        return names

    def _let_queries_go(self, slot_R: Ints) -> list[str]:
        if not len(slot_R):
            return []
        self._flush()
        self.users.forget_queries(slot_R)
        names = self.queries.release(slot_R)
        for name in names:
            self._touched.pop(f"query:{name}", None)
        return names

    def _let_items_go(self, slot_R: Ints) -> None:
        if not len(slot_R):
            return
        self._flush()
        gone = np.zeros(self.items.used, bool)
        gone[slot_R] = True
        self.items.release(slot_R)
        self.users.forget_items(gone)
        self.queries.clicked.forget(gone, self.queries.slots.used)

    # ---- texts

    def _want_vector(self, kind: str, slot: int, generation: int, text: str) -> None:
        if self.text_dim:
            self._texts.append(PendingText(kind, slot, generation, text))

    def pending_texts(self, limit: int) -> list[PendingText]:
        """Take the oldest waiting texts whose slot is still theirs, at most `limit`."""
        taken: list[PendingText] = []
        position = 0
        while position < len(self._texts) and len(taken) < limit:
            entry = self._texts[position]
            position += 1
            if self._still(entry):
                taken.append(entry)
        del self._texts[:position]
        return taken

    def set_vectors(self, entries: Sequence[PendingText], vector_NE: Array) -> None:
        """Vectors of texts that `pending_texts` gave out (float [n, E])."""
        for kind, store in (("item", self.items), ("query", self.queries)):
            rows = [i for i, e in enumerate(entries) if e.kind == kind and self._still(e)]
            if rows:
                slots = np.array([entries[i].slot for i in rows])
                store.set_vectors(slots, vector_NE[rows])

    def _still(self, entry: PendingText) -> bool:
        if entry.kind == "item":
            same = self.items.titles[entry.slot] == entry.text
            return same and bool(self.items.slots.generation[entry.slot] == entry.generation)
        return bool(self.queries.slots.generation[entry.slot] == entry.generation)

    # ---- buffered sums

    def _start_buffers(self) -> None:
        self._counts = Counts()
        self._covisits, self._moves, self._answers = Pairs(), Pairs(), Pairs()

    def _flush(self) -> None:
        """Add what was buffered; called before a slot changes hands, so nothing lands on a stranger."""
        if self._counts:
            self._rebase()
            self._flush_counts()
        for pairs, table in (
            (self._covisits, self.items.covisits),
            (self._moves, self.items.transitions),
            (self._answers, self.queries.clicked),
        ):
            if pairs.row:
                weight = self.link_fading.weight(np.array(pairs.time, np.int64))
                table.add(np.array(pairs.row, np.int64), np.array(pairs.slot, np.int64), weight)
        if self._counts:
            self._start_buffers()

    def _flush_counts(self) -> None:
        user_R, kind_R, time_R, amount_R = self._counts.runs()
        item, run = self._counts.items()
        weight_RS = np.stack([f.weight(time_R) for f in self.fadings], 1) * amount_R[:, None]
        user, kind, weight_NS = user_R[run], kind_R[run], weight_RS.take(run, 0)
        add_at(self.users.columns.count, (user, kind), weight_NS[:, STEADY])
        affinity.count(
            self.users.columns.taste,
            self.crowd_2N,
            user,
            self.items.columns.tokens.take(item, 0),
            kind != SHOWN,
            weight_NS[:, SLOW],
        )
        self.items.count(item, kind, weight_NS)

    def _rebase(self) -> None:
        factors = [fading.rebase(self.now_ms) for fading in self.fadings]
        self.items.rescale(factors)
        if factors[STEADY] != 1.0:
            self.users.columns.count *= factors[STEADY]
        if factors[SLOW] != 1.0:
            self.users.columns.taste *= np.float32(factors[SLOW])
            self.crowd_2N *= factors[SLOW]
        factor = self.link_fading.rebase(self.now_ms)
        if factor != 1.0:
            for table in (self.items.covisits, self.items.transitions, self.queries.clicked):
                table.scale(factor)

    # ---- state

    def state(self) -> State:
        return {
            "now_ms": self.now_ms,
            "next_check_ms": self._next_check_ms,
            "landmarks": [f.landmark_ms for f in (*self.fadings, self.link_fading)],
            "touched": list(self._touched),
            "left": list(self._left),
            "crowd_2N": torch.from_numpy(self.crowd_2N),
            "devices": self.devices.names[1:],
            "texts": [list(entry) for entry in self._texts],
            **nest("influence", self._influence.state()),
            **nest("items", self.items.state()),
            **nest("users", self.users.state()),
            **nest("profiles", self.profiles.state(self.users.slots.used)),
            **nest("queries", self.queries.state()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.now_ms, self._next_check_ms = state["now_ms"], state["next_check_ms"]
        for fading, landmark in zip(
            (*self.fadings, self.link_fading), state["landmarks"], strict=True
        ):
            fading.landmark_ms = landmark
        self._touched = dict.fromkeys(state["touched"])
        self._left = list(state["left"])
        self.crowd_2N[:] = state["crowd_2N"].numpy()
        self.devices.restore(["", *state["devices"]])
        self._texts = [PendingText(*entry) for entry in state["texts"]]
        self._start_buffers()
        self._influence.restore(unnest("influence", state))
        self.items.restore(unnest("items", state))
        self.users.restore(unnest("users", state))
        self.profiles.restore(unnest("profiles", state))
        self.queries.restore(unnest("queries", state))


def _look_up(slots: Slots, names: Iterable[str]) -> Ints:
    get = slots.index.get
    return np.array([get(name, -1) for name in names], np.int64)
