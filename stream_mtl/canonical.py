"""Wire models -> canonical events: one function a type, no validation left to do."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any

from pydantic_core import to_json

from schemas import control
from schemas import events as wire
from stream_mtl import events
from stream_mtl.events import AnyEvent, Command, Shown


def normalise_query(text: str) -> str:
    """Unicode NFKC, lower case, single spaces: one spelling of what people typed, and a score key."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.lower().split())


def content_id(*content: object) -> str:
    """128-bit hash (hex) of canonical content: the id of a record whose producer gave none.

    Field order, spaces and the way a time was written do not matter; equal content is a duplicate.
    """
    return blake2b(to_json(content), digest_size=16).hexdigest()


_NEW = object.__new__
_SET_ITEM, _SET_POSITION, _SET_PROPENSITY = (
    vars(Shown)[name].__set__ for name in ("item_id", "position", "propensity")
)


def shown(items: Iterable[wire.ShownItem]) -> tuple[Shown, ...]:
    """The items of an exposure. A frozen dataclass fills its slots twice as fast past its `__init__`,
    and lists of items are most of what there is to decode."""
    filled = []
    for item in items:
        place = _NEW(Shown)
        _SET_ITEM(place, item.item_id)
        _SET_POSITION(place, item.position)
        _SET_PROPENSITY(place, item.propensity)
        filled.append(place)
    return tuple(filled)


def _device(context: dict[str, str | float] | None) -> str:
    device = context.get("device") if context else None
    return device.lower() if isinstance(device, str) else ""


def _queried(context: dict[str, str | float] | None) -> str:
    query = context.get("query") if context else None
    return normalise_query(query) if isinstance(query, str) else ""


def _user(w: wire.AnyUserEvent, *content: object) -> dict[str, Any]:
    """The fields of `events.Event`; `content` is what the hash covers beyond them."""
    session, domain = w.session_id or "", w.domain or ""
    return {
        "event_id": w.event_id
        or content_id(w.type, w.event_time, w.user_id, session, domain, *content),
        "time_ms": w.event_time,
        "user_id": w.user_id,
        "session_id": session,
        "domain": domain,
        "device": _device(w.context),
        "variant": w.variant or "",
    }


def _shown_content(items: Sequence[wire.ShownItem] | None) -> list[tuple[object, ...]]:
    return [(i.item_id, i.position, i.propensity) for i in items or ()]


def _impression(w: wire.Impression) -> events.Impression:
    query = normalise_query(w.query) if w.query else _queried(w.context)
    content = () if w.event_id else (w.request_id, w.surface, query, _shown_content(w.items))
    return events.Impression(
        **_user(w, *content),
        items=shown(w.items),
        request_id=w.request_id or "",
        surface=w.surface or "home",
        query=query,
    )


def _search(w: wire.Search) -> events.Search:
    query = normalise_query(w.query)
    content = () if w.event_id else (query, w.request_id, _shown_content(w.items))
    return events.Search(
        **_user(w, *content),
        query=query,
        request_id=w.request_id or "",
        items=shown(w.items) if w.items else (),
    )


def _click(w: wire.Click) -> events.Click:
    query = _queried(w.context)
    return events.Click(
        **_user(w, w.item_id, w.request_id, w.surface, w.position, query),
        item_id=w.item_id,
        request_id=w.request_id or "",
        surface=w.surface or "",
        position=w.position,
        query=query,
    )


def _view(w: wire.View) -> events.View:
    return events.View(
        **_user(w, w.item_id, w.surface, w.dwell_ms, w.completion_ratio),
        item_id=w.item_id,
        surface=w.surface or "",
        dwell_ms=w.dwell_ms,
        completion_ratio=w.completion_ratio,
    )


def _add_to_cart(w: wire.AddToCart) -> events.AddToCart:
    quantity = w.quantity or 1
    return events.AddToCart(**_user(w, w.item_id, quantity), item_id=w.item_id, quantity=quantity)


def _purchase(w: wire.Purchase) -> events.Purchase:
    quantity = w.quantity or 1
    return events.Purchase(
        **_user(w, w.item_id, w.order_id, w.request_id, quantity, w.price, w.currency),
        item_id=w.item_id,
        order_id=w.order_id or "",
        request_id=w.request_id or "",
        quantity=quantity,
        price=w.price,
        currency=w.currency or "",
    )


def _refund(w: wire.Refund) -> events.Refund:
    return events.Refund(**_user(w, w.item_id, w.order_id), item_id=w.item_id, order_id=w.order_id)


def _review(w: wire.Review) -> events.Review:
    return events.Review(
        **_user(w, w.item_id, w.rating, w.text),
        item_id=w.item_id,
        rating=w.rating,
        text=w.text or "",
    )


def _service_message(w: wire.ServiceMessage) -> events.ServiceMessage:
    return events.ServiceMessage(
        **_user(w, w.text, w.intent, w.sentiment),
        text=w.text,
        intent=w.intent or "",
        sentiment=w.sentiment or "",
    )


def _profile(w: wire.Profile) -> events.Profile:
    attributes = tuple(sorted((name, _text(value)) for name, value in w.attributes.items()))
    return events.Profile(**_user(w, attributes), attributes=attributes)


def _text(value: str | float) -> str:
    """A number as text: 3 and 3.0 are one value of an attribute."""
    return value if isinstance(value, str) else f"{value:.12g}"


def _item(w: wire.Item) -> events.Item:
    content = (w.domain, w.title, w.category, w.brand, w.price, w.available)
    return events.Item(
        event_id=w.event_id or content_id("item", w.event_time, w.item_id, *content),
        time_ms=w.event_time,
        item_id=w.item_id,
        domain=w.domain or "",
        title=w.title or "",
        category=w.category or "",
        brand=w.brand or "",
        price=w.price,
        available=w.available is not False,
    )


def withdrawn(item_id: str, time_ms: int) -> events.Item:
    """What a null value on the items topic says."""
    return events.Item(
        event_id=content_id("withdrawn", time_ms, item_id),
        time_ms=time_ms,
        item_id=item_id,
        available=False,
        withdrawn=True,
    )


def canonical_command(w: control.AnyCommand) -> Command:
    arguments = w.model_dump(
        exclude={"schema_version", "type", "command_id", "issued_at"}, exclude_none=True
    )
    return Command(
        command_id=w.command_id,
        kind=w.type,
        issued_at=w.issued_at,
        arguments=tuple(sorted(arguments.items())),
    )


# By class, so that the choice costs one dict lookup. Any: each function takes exactly its key's class.
CANONICAL: dict[type[wire.AnyInput], Callable[[Any], AnyEvent]] = {
    wire.AddToCart: _add_to_cart,
    wire.Click: _click,
    wire.Impression: _impression,
    wire.Item: _item,
    wire.Profile: _profile,
    wire.Purchase: _purchase,
    wire.Refund: _refund,
    wire.Review: _review,
    wire.Search: _search,
    wire.ServiceMessage: _service_message,
    wire.View: _view,
}
