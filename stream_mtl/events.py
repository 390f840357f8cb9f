"""Canonical events: what the fold speaks of, whatever dialect a producer used.

Frozen, hashable, free of torch and Kafka. Times are epoch milliseconds. An empty string means that the
producer did not say; `None` is used where 0 would be a value.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One item of an exposure."""

    item_id: str
    position: int | None = None  # 1 is the first place
    propensity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Fields that every user event has. `event_id` is the producer's, else a hash of the content."""

    event_id: str
    time_ms: int
    user_id: str
    session_id: str = ""
    domain: str = ""
    device: str = ""  # context["device"], lower case
    variant: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Impression(Event):
    items: tuple[Shown, ...]
    request_id: str = ""
    surface: str = "home"
    query: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search(Event):
    query: str  # normalised: Unicode NFKC, lower case, single spaces
    request_id: str = ""
    items: tuple[Shown, ...] = ()  # listed results make it an exposure


@dataclass(frozen=True, slots=True, kw_only=True)
class Click(Event):
    item_id: str
    request_id: str = ""
    surface: str = ""
    position: int | None = None
    query: str = ""  # context["query"] where a shop logs it with the click


@dataclass(frozen=True, slots=True, kw_only=True)
class View(Event):
    item_id: str
    surface: str = ""
    dwell_ms: int | None = None
    completion_ratio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddToCart(Event):
    item_id: str
    quantity: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Purchase(Event):
    item_id: str
    order_id: str = ""
    request_id: str = ""
    quantity: int = 1
    price: float | None = None
    currency: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refund(Event):
    item_id: str
    order_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Review(Event):
    item_id: str
    rating: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceMessage(Event):
    text: str
    intent: str = ""
    sentiment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Event):
    attributes: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Catalogue record; a later one replaces an earlier one field by field. `withdrawn`: null value."""

    event_id: str
    time_ms: int
    item_id: str
    domain: str = ""
    title: str = ""
    category: str = ""
    brand: str = ""
    price: float | None = None
    available: bool | None = None  # None: as before; of an item that is new or was withdrawn, yes
    withdrawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A record of the control topic; no event time, applied after the events of its cut."""

    command_id: str
    kind: (
        str  # erase_user, pause, resume, rollback, set_task_weight, add_task, retire_task, promote
    )
    issued_at: int
    arguments: tuple[tuple[str, str | int | float | bool | tuple[str | float, ...]], ...] = ()


UserEvent = (
    Impression
    | Search
    | Click
    | View
    | AddToCart
    | Purchase
    | Refund
    | Review
    | ServiceMessage
    | Profile
)
AnyEvent = UserEvent | Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What the join opened: items that a user saw, or one clicked item that nothing had shown.

    With `needs_negatives` the shop logged no impression: `items` holds the clicked item alone, and the
    features add negatives from what scoring would have shown then.
    """

    exposure_id: str
    user_id: str
    time_ms: int
    items: tuple[Shown, ...]
    domain: str = ""
    surface: str = "home"
    query: str = ""
    device: str = ""
    request_id: str = ""
    needs_negatives: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Labels of an exposure that became known: per task one value an item, None where still unknown.

    A higher `revision` replaces what a lower one said of the same task and item. Only tasks that this
    revision trains are in `labels`. `correction`: a label that an earlier revision had given
    differently (repairs memories). `closed`: the last word; the exposure's features may be forgotten.
    `provisional`: what was seen so far, for tasks with a `delay`; the window has not closed.
    """

    exposure_id: str
    user_id: str
    revision: int
    time_ms: int  # event time at which the labels became known
    labels: dict[str, tuple[float | None, ...]]
    correction: bool = False
    closed: bool = False
    provisional: bool = False
