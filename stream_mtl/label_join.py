"""The label join: event-time windows that turn a user's events into labelled examples.

`on_event` and `on_timer` are a pure keyed function: they read and change one user's `UserJoin` and
nothing else, so a keyed stream processor can run them as they are. `LabelJoin` runs them in process
over a dict and a timer heap.

An exposure opens when it arrives, so that its features are as of then. Touches (clicks, views, carts,
purchases, refunds) wait until the watermark has passed their own time and then take effect in the order
of event time. So the labels do not depend on the order of arrival, as long as disorder stays within
`out_of_order_ms`; a touch that comes later still is attributed by its own time and may correct a label.

A touch that no open exposure explains opens one itself (`needs_negatives`), at once and provisionally.
When its real exposure arrives within the disorder bound, the stand-in is closed with revision 0 and no
label; else it gets click = 1. That holds also for shops that log impressions: not every surface is
logged everywhere. Which path exposures took is in `LabelJoin.counts`.

Not promised: an exposure that arrives later than the bound takes no label from touches already settled;
a refund that precedes its purchase by more than the bound is lost; a user with more than 500 open
exposures loses the oldest ones early, with unknown labels masked.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from stream_mtl.attribution import apply, cap, close_due, find, insert, open_touched
from stream_mtl.config import Join
from stream_mtl.emitting import Emitting
from stream_mtl.errors import StateError
from stream_mtl.events import (
    AddToCart,
    AnyEvent,
    Click,
    Exposure,
    Impression,
    Item,
    Outcome,
    Purchase,
    Refund,
    Review,
    Search,
    Shown,
    UserEvent,
    View,
)
from stream_mtl.join_state import CART, NEVER, PURCHASE, REFUND, TOUCH, Open, Touch, UserJoin

RATED = "review"  # surface of an exposure that a rating made
PATHS = ("impression", "search", "click", "review")  # by which exposures open
COUNTED_AS = {  # `LabelJoin.counts` among the counts of a cut
    **{path: f"exposures_{path}" for path in PATHS},
    "withdrawn": "exposures_withdrawn",
    "late": "late_events",
    "corrections": "corrected_labels",
    "bare_purchases": "bare_purchases",
}
MAX_SEEN = 2_000  # event ids remembered a user; the first to come leaves first
MAX_PENDING = 1_000  # touches waiting a user; the oldest takes effect early


class Emitted(NamedTuple):
    """What one call gives back; `timers` are event times at which `on_timer` wants to be called."""

    exposures: Sequence[Exposure] = ()
    outcomes: Sequence[Outcome] = ()
    timers: tuple[int, ...] = ()
    duplicate: bool = False  # the event was seen before and changed nothing
    bare: int = 0  # purchases that nothing explained, as they were settled


_SHOWING: Final = (Impression, Search)
_TOUCHING: Final = (Click, View, AddToCart, Purchase, Refund)
_CARTED: Final = (("cart", 1.0),)
_NOTHING = Emitted()
_DUPLICATE = Emitted(duplicate=True)


def on_event(state: UserJoin | None, event: UserEvent, config: Join) -> tuple[UserJoin, Emitted]:
    """Take in one event of the user. The state is changed in place and given back."""
    state = UserJoin(event.user_id) if state is None else state
    if not _remember(state, event, config):
        return state, _DUPLICATE
    out: Emitting | None = None
    if isinstance(event, _SHOWING):
        if event.items:
            if event.event_id in state.by_id:  # windows outlive remembered ids
                return state, _DUPLICATE
            out = Emitting(event.user_id)
            _expose(state, event, config, out)
    elif isinstance(event, _TOUCHING):
        out = Emitting(event.user_id)
        if not _touch(state, event, config, out):
            return state, _DUPLICATE
    elif isinstance(event, Review) and event.rating is not None:
        out = Emitting(event.user_id)
        _rate(event, out)
    timers = _timers(state, config)
    if out is None:
        return state, Emitted(timers=timers) if timers else _NOTHING
    return state, Emitted(out.exposures, out.outcomes, timers, bare=out.bare)


def on_timer(state: UserJoin, time_ms: int, config: Join) -> tuple[UserJoin | None, Emitted]:
    """The watermark has reached `time_ms`: settle touches and close windows up to it, in event-time order.

    Calls at other times than those asked for are harmless. None: nothing is left of the user.
    """
    if time_ms < state.timer:
        return state, _NOTHING
    state.timer = NEVER
    out = Emitting(state.user_id)
    while state.pending and state.pending[0].time_ms <= time_ms:
        touch = state.pending.pop(0)
        close_due(state, config, touch.time_ms - 1, out)
        apply(state, touch, config, out)
    close_due(state, config, time_ms, out)
    if not state.open and not state.pending and time_ms >= state.newest + config.dedup_ms:
        return None, Emitted(out.exposures, out.outcomes, bare=out.bare)
    return state, Emitted(out.exposures, out.outcomes, _timers(state, config), bare=out.bare)


def _remember(state: UserJoin, event: UserEvent, config: Join) -> bool:
    """Whether the event id is new; old ids are forgotten."""
    seen = state.seen
    if event.event_id in seen:
        return False
    seen[event.event_id] = event.time_ms
    state.newest = max(state.newest, event.time_ms)
    horizon = state.newest - config.dedup_ms
    while len(seen) > 1:
        oldest = next(iter(seen))
        if seen[oldest] >= horizon and len(seen) <= MAX_SEEN:
            break
        del seen[oldest]
    return True


def _expose(state: UserJoin, event: Impression | Search, config: Join, out: Emitting) -> None:
    items = _distinct(event.items, config.max_items)
    surface = event.surface if isinstance(event, Impression) else "search"
    insert(
        state,
        Open(
            event.event_id,
            event.time_ms,
            event.request_id,
            tuple([shown.item_id for shown in items]),
            search=surface == "search",
            due=event.time_ms + config.click_window_ms,
        ),
    )
    out.exposures.append(
        Exposure(
            exposure_id=event.event_id,
            user_id=event.user_id,
            time_ms=event.time_ms,
            items=items,
            domain=event.domain,
            surface=surface,
            query=event.query,
            device=event.device,
            request_id=event.request_id,
        )
    )
    cap(state, out)


def _distinct(items: tuple[Shown, ...], limit: int) -> tuple[Shown, ...]:
    """The first `limit` items, each once: the row of an item is its identity within an exposure."""
    first: dict[str, Shown] = {}
    for shown in items:
        first.setdefault(shown.item_id, shown)
    return items if len(first) == len(items) <= limit else tuple(first.values())[:limit]


def _touch(
    state: UserJoin,
    event: Click | View | AddToCart | Purchase | Refund,
    config: Join,
    out: Emitting,
) -> bool:
    """Let the touch wait for its time; False when it opened an exposure before and came again."""
    request, order, surface, query, position = "", "", "", "", None
    kind = TOUCH
    said: tuple[tuple[str, float], ...] = ()
    if isinstance(event, Click):
        request, surface, query, position = (
            event.request_id, event.surface, event.query, event.position,
        )  # fmt: skip
    elif isinstance(event, View):
        surface, said = event.surface, _seen(event)
    elif isinstance(event, AddToCart):
        kind, said = CART, _CARTED
    elif isinstance(event, Purchase):
        kind, request, order = PURCHASE, event.request_id, event.order_id
    elif isinstance(event, Refund):
        kind, order = REFUND, event.order_id
    touch = Touch(
        event.time_ms, kind, event.event_id, event.item_id, request, order, False,
        event.domain, surface, query, event.device, position, said,
    )  # fmt: skip
    opens = kind != REFUND and (kind != PURCHASE or config.bare_purchases == "learn")
    if opens and find(state, touch, config, settled=False) is None:
        if touch.event_id in state.by_id:
            return False
        open_touched(state, touch, out)
        touch = Touch(*touch[:6], True, *touch[7:])  # four times as fast as `_replace`
        cap(state, out)
    insort(state.pending, touch)
    if len(state.pending) > MAX_PENDING:
        apply(state, state.pending.pop(0), config, out)
    return True


def _seen(event: View) -> tuple[tuple[str, float], ...]:
    values = (("dwell_ms", event.dwell_ms), ("completion", event.completion_ratio))
    return tuple((source, float(value)) for source, value in values if value is not None)


def _rate(event: Review, out: Emitting) -> None:
    """A rating is an example of its own, as of when it is given: one item, its label known at once."""
    out.exposures.append(
        Exposure(
            exposure_id=event.event_id,
            user_id=event.user_id,
            time_ms=event.time_ms,
            items=(Shown(item_id=event.item_id),),
            domain=event.domain,
            surface=RATED,
            device=event.device,
        )
    )
    out.outcomes.append(
        Outcome(
            exposure_id=event.event_id,
            user_id=event.user_id,
            revision=1,
            time_ms=event.time_ms,
            labels={"rating": (event.rating,)},
            closed=True,
        )
    )


def _timers(state: UserJoin, config: Join) -> tuple[int, ...]:
    """The next moment that matters, when it is earlier than the timer already asked for."""
    due = state.dues[0][0] if state.dues else NEVER
    if state.pending and state.pending[0].time_ms < due:
        due = state.pending[0].time_ms
    if due == NEVER:
        due = state.newest + config.dedup_ms
    if due >= state.timer:
        return ()
    state.timer = due
    return (due,)


@dataclass(frozen=True, slots=True)
class Joined:
    """What a run of events, or a move of the watermark, gave. `events` are free of duplicates."""

    events: Sequence[AnyEvent]
    exposures: list[Exposure]
    outcomes: list[Outcome]
    duplicates: int = 0
    late: int = 0  # events that came after the watermark had passed their time


class LabelJoin:
    """Runs the keyed functions over a dict of users and a heap of timers.

    Timers fire in the order of (time, user), so the outcomes do not depend on how often the watermark
    moves. `counts` (of the whole lineage) has exposures by the path they took (impression, search,
    click), withdrawn stand-ins, corrections, duplicates, late events, and purchases that nothing explains.
    """

    def __init__(self, config: Join) -> None:
        self._config = config
        self._users: dict[str, UserJoin] = {}
        self._timers: list[tuple[int, str]] = []
        self._watermark = 0
        self.counts = dict.fromkeys(
            (
                "impression",
                "search",
                "click",
                "review",
                "withdrawn",
                "corrections",
                "duplicates",
                "late",
                "bare_purchases",
            ),
            0,
        )

    def __len__(self) -> int:
        """Users with anything open."""
        return len(self._users)

    def feed(self, events: Sequence[AnyEvent]) -> Joined:
        """Take events in the given order; exposures come back at once, labels when windows close."""
        kept: list[AnyEvent] = []
        joined = Joined(kept, [], [])
        duplicates = late = 0
        users, config, counts, watermark = self._users, self._config, self.counts, self._watermark
        for event in events:
            if isinstance(event, Item):
                kept.append(event)
                continue
            user = event.user_id
            state, emitted = on_event(users.get(user), event, config)
            users[user] = state
            if emitted.duplicate:
                duplicates += 1
                continue
            kept.append(event)
            late += event.time_ms <= watermark
            if emitted.exposures:
                counts[_path(event)] += len(emitted.exposures)
            self._collect(user, emitted, joined)
        counts["duplicates"] += duplicates
        counts["late"] += late
        return Joined(kept, joined.exposures, joined.outcomes, duplicates, late)

    def advance(self, watermark_ms: int) -> Joined:
        """Fire the timers up to the watermark. It never goes back.

        `exposures` is nearly always empty: only a touch whose stand-in was another touch's, which then
        turned out to have an exposure of its own, opens one this late.
        """
        self._watermark = max(self._watermark, watermark_ms)
        joined = Joined((), [], [])
        users, timers = self._users, self._timers
        while timers and timers[0][0] <= self._watermark:
            time_ms, user = heapq.heappop(timers)
            state = users.get(user)
            if state is None or state.timer != time_ms:
                continue  # the user is gone, or an earlier timer took over
            left, emitted = on_timer(state, time_ms, self._config)
            if left is None:
                del users[user]
            self.counts["click"] += len(emitted.exposures)
            self._collect(user, emitted, joined)
        return joined

    def _collect(self, user: str, emitted: Emitted, joined: Joined) -> None:
        self.counts["bare_purchases"] += emitted.bare
        joined.exposures.extend(emitted.exposures)
        for outcome in emitted.outcomes:
            joined.outcomes.append(outcome)
            if outcome.correction:
                self.counts["corrections"] += 1
            elif outcome.revision == 0:
                self.counts["withdrawn"] += 1
        for time_ms in emitted.timers:
            heapq.heappush(self._timers, (time_ms, user))

    def erase(self, user_id: str) -> int:
        """Forget the user, windows and all; how many open exposures went."""
        state = self._users.pop(user_id, None)
        return 0 if state is None else len(state.open)

    def state(self) -> dict[str, Any]:
        return {
            "users": [user.to_json() for user in self._users.values()],
            "watermark": self._watermark,
            "counts": dict(self.counts),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        try:
            users = [UserJoin.from_json(value) for value in state["users"]]
            self._watermark = int(state["watermark"])
            self.counts = dict.fromkeys(self.counts, 0) | state["counts"]
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"label join: the saved state is not readable ({error!r})") from error
        self._users = {user.user_id: user for user in users}
        self._timers = [(user.timer, user.user_id) for user in users if user.timer != NEVER]
        heapq.heapify(self._timers)


def _path(event: UserEvent) -> str:
    if isinstance(event, Impression):
        return "impression"
    if isinstance(event, Review):
        return "review"
    return "search" if isinstance(event, Search) else "click"
