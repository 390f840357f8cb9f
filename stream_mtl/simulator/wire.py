"""The JSON of each event type, written by hand: it is most of a simulated record's cost.

All texts come from our own vocabulary, which has nothing to escape.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stream_mtl.simulator.record import Simulated, TruthRow

TruthRows = tuple[TruthRow, ...]


@dataclass(slots=True)
class Visit:
    """What all events of a session have in common."""

    user_id: str
    session_id: str
    domain: str
    device: str
    key: bytes = field(init=False)
    tail: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = self.user_id.encode()
        self.tail = (
            f'"user_id":"{self.user_id}","session_id":"{self.session_id}",'
            f'"domain":"{self.domain}","context":{{"device":"{self.device}"}}}}'
        )


def _event(
    kind: str, event_id: str, time: int, visit: Visit, fields: str, truth: TruthRows | None = None
) -> Simulated:
    head = f'{{"type":"{kind}","event_id":"{event_id}","event_time":{time},'
    value = f"{head}{fields}{visit.tail}".encode()
    return Simulated("events", visit.key, value, time, event_id, truth)


def impression(
    event_id: str,
    time: int,
    visit: Visit,
    query: str,
    request_id: str,
    shown: str,
    truth: TruthRows,
) -> Simulated:
    """`shown`: the items' JSON objects, joined by commas."""
    place = f'"surface":"search","query":"{query}",' if query else '"surface":"home",'
    fields = f'"request_id":"{request_id}",{place}"items":[{shown}],'
    return _event("impression", event_id, time, visit, fields, truth)


def search(
    event_id: str,
    time: int,
    visit: Visit,
    query: str,
    request_id: str,
    shown: str = "",
    truth: TruthRows | None = None,
) -> Simulated:
    fields = f'"query":"{query}","request_id":"{request_id}",'
    if shown:
        fields += f'"items":[{shown}],'
    return _event("search", event_id, time, visit, fields, truth)


def click(
    event_id: str,
    time: int,
    visit: Visit,
    item_id: str,
    request_id: str,
    position: int,
    surface: str,
) -> Simulated:
    asked = f'"request_id":"{request_id}","position":{position},' if request_id else ""
    fields = f'"item_id":"{item_id}",{asked}"surface":"{surface}",'
    return _event("click", event_id, time, visit, fields)


def view(
    event_id: str, time: int, visit: Visit, item_id: str, dwell_ms: int, surface: str
) -> Simulated:
    fields = f'"item_id":"{item_id}","dwell_ms":{dwell_ms},"surface":"{surface}",'
    return _event("view", event_id, time, visit, fields)


def add_to_cart(event_id: str, time: int, visit: Visit, item_id: str) -> Simulated:
    return _event("add_to_cart", event_id, time, visit, f'"item_id":"{item_id}","quantity":1,')


def purchase(
    event_id: str,
    time: int,
    visit: Visit,
    item_id: str,
    order_id: str,
    price: float,
    request_id: str,
) -> Simulated:
    asked = f'"request_id":"{request_id}",' if request_id else ""
    fields = (
        f'"item_id":"{item_id}","order_id":"{order_id}","quantity":1,'
        f'"price":{price:.2f},"currency":"EUR",{asked}'
    )
    return _event("purchase", event_id, time, visit, fields)


def refund(event_id: str, time: int, visit: Visit, item_id: str, order_id: str) -> Simulated:
    fields = f'"item_id":"{item_id}","order_id":"{order_id}",'
    return _event("refund", event_id, time, visit, fields)


def review(
    event_id: str, time: int, visit: Visit, item_id: str, rating: int, text: str
) -> Simulated:
    fields = f'"item_id":"{item_id}","rating":{rating},"text":"{text}",'
    return _event("review", event_id, time, visit, fields)


def service_message(
    event_id: str, time: int, visit: Visit, text: str, intent: str, sentiment: str
) -> Simulated:
    fields = f'"text":"{text}","intent":"{intent}","sentiment":"{sentiment}",'
    return _event("service_message", event_id, time, visit, fields)


def profile(event_id: str, time: int, visit: Visit, attributes: tuple[str, str, str]) -> Simulated:
    gender, age_band, region = attributes
    fields = f'"attributes":{{"gender":"{gender}","age_band":"{age_band}","region":"{region}"}},'
    return _event("profile", event_id, time, visit, fields)
