"""What the label join keeps of one user: open exposures, touches that wait, event ids already seen.

All of it turns into JSON lists and back, so that a checkpoint, or the keyed state of a stream
processor, stays small with tens of thousands of open exposures.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

NEVER = 2**62  # a time that no watermark reaches
TOUCH, CART, PURCHASE, REFUND = range(4)  # also the order of touches that carry the same time
CLICK_OPEN, PURCHASE_OPEN, LATE_OPEN = 0, 1, 2  # which window of an exposure closes next
EARLY_OPEN = 3  # after the clicks, where provisional labels wait longer than they


def within(source: str, window_ms: int) -> str:
    """The name of the label that says whether it happened within a window of `Join.windows`."""
    return f"{source}@{window_ms}"


class Touch(NamedTuple):
    """A click, view, cart, purchase or refund that waits until the watermark has passed its time.

    Sorted by (time, kind, event id): touches take effect in that order, however they arrived.
    `held`: an exposure was opened for it on arrival and stands or falls with it.
    """

    time_ms: int
    kind: int
    event_id: str
    item_id: str
    request_id: str
    order_id: str
    held: bool
    domain: str
    surface: str
    query: str
    device: str
    position: int | None
    said: tuple[tuple[str, float], ...] = ()  # labels beside click and purchase: (source, value)


@dataclass(slots=True, eq=False)
class Open:
    """An exposure whose labels are not all known yet. `items` are ids; indices below point into it."""

    exposure_id: str
    time_ms: int
    request_id: str
    items: tuple[str, ...]
    search: bool
    due: int  # when the next window closes; NEVER while provisional
    provisional: bool = False  # made from a touch whose own exposure may still arrive
    phase: int = CLICK_OPEN
    revision: int = 0  # of the last outcome
    clicked: list[int] = field(default_factory=list)  # click label is 1
    touched: dict[int, int] = field(default_factory=dict)  # index -> time of the last touch
    # index -> orders not refunded -> when the first of them was placed
    orders: dict[int, dict[str, int]] = field(default_factory=dict)
    carted: dict[int, int] = field(default_factory=dict)  # index -> when first
    said: dict[str, dict[int, float]] = field(
        default_factory=dict
    )  # source -> index -> largest value
    told_ms: int = 0  # the longest of `Join.windows` that was told of

    def to_json(self) -> list[Any]:
        return [
            self.exposure_id,
            self.time_ms,
            self.request_id,
            list(self.items),
            int(self.search),
            self.due,
            int(self.provisional),
            self.phase,
            self.revision,
            list(self.clicked),
            [list(pair) for pair in self.touched.items()],
            [
                [index, [list(pair) for pair in orders.items()]]
                for index, orders in self.orders.items()
            ],
            [[source, [list(pair) for pair in one.items()]] for source, one in self.said.items()],
            [list(pair) for pair in self.carted.items()],
            self.told_ms,
        ]

    @classmethod
    def from_json(cls, value: list[Any]) -> Open:
        identity, time_ms, request, items, search, due, provisional, phase, revision = value[:9]
        clicked, touched, orders, said, *later = value[9:]
        carted, told_ms = later or (
            ((index, time_ms) for index, _ in dict(said).get("cart", ())),
            0,
        )
        if not later:  # of a fold before version 8, which did not keep when: as if at once
            orders = [[index, [(one, time_ms) for one in ids]] for index, ids in orders]
        return cls(
            identity,
            time_ms,
            request,
            tuple(items),
            bool(search),
            due,
            bool(provisional),
            phase,
            revision,
            list(clicked),
            dict(touched),
            {index: dict(placed) for index, placed in orders},
            dict(carted),
            {source: dict(pairs) for source, pairs in said},
            told_ms,
        )


@dataclass(slots=True, eq=False)
class UserJoin:
    """The join's whole memory of one user.

    `open` is sorted by (time, exposure id), `pending` in the order of `Touch`, `seen` by arrival.
    `timer` is the earliest timer that was asked for and has not fired. `by_id` and the heap `dues` of
    (due, time, exposure id) index `open`, so that no event scans it; entries whose exposure has left or
    has another `due` are skipped.
    """

    user_id: str
    open: list[Open] = field(default_factory=list)
    pending: list[Touch] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)  # event id -> event time
    newest: int = 0
    timer: int = NEVER
    by_id: dict[str, Open] = field(default_factory=dict)
    dues: list[tuple[int, int, str]] = field(default_factory=list)

    def to_json(self) -> list[Any]:
        return [
            self.user_id,
            [exposure.to_json() for exposure in self.open],
            [list(touch) for touch in self.pending],
            [list(pair) for pair in self.seen.items()],
            self.newest,
            self.timer,
        ]

    @classmethod
    def from_json(cls, value: list[Any]) -> UserJoin:
        user_id, opened, pending, seen, newest, timer = value
        exposures = [Open.from_json(v) for v in opened]
        return cls(
            user_id,
            exposures,
            [Touch(*v)._replace(said=tuple((source, x) for source, x in v[-1])) for v in pending],
            dict(seen),
            newest,
            timer,
            {exposure.exposure_id: exposure for exposure in exposures},
            sorted((e.due, e.time_ms, e.exposure_id) for e in exposures if e.due != NEVER),
        )
