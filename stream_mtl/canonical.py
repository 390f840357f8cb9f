"""Wire models -> canonical events: one function a type, no validation left to do."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from hashlib import blake2b
from typing import Any, TypeVar

from pydantic_core import to_json

from schemas import control
from schemas import events as wire
from stream_mtl import events
from stream_mtl.events import AnyEvent, Command, Shown

Made = TypeVar("Made")
_COMMON = ("event_id", "time_ms", "user_id", "session_id", "domain", "device", "variant")


def normalise_query(text: str) -> str:
    """Unicode NFKC, lower case, single spaces: one spelling of what people typed, and a score key."""
    if text.isascii():
        return " ".join(text.lower().split())
    text = unicodedata.normalize("NFKC", text).lower()
    # Lower case may leave letters that compose once more, e.g. Greek iota with dialytika and accent.
    return " ".join(unicodedata.normalize("NFKC", text).split())


def content_id(*content: object) -> str:
    """128-bit hash (hex) of canonical content: the id of a record whose producer gave none.

    Field order, spaces and the way a time was written do not matter; equal content is a duplicate.
    """
    return blake2b(to_json(content), digest_size=16).hexdigest()


def _filler(cls: type[Made], own: str = "") -> Callable[..., Made]:
    """A constructor by position: the fields of `events.Event`, then those that `own` names.

    A frozen dataclass fills its slots faster past its `__init__`, and with plain tuples in place of
    keywords; together that is a quarter of the time to decode.
    """
    names = (*_COMMON, *own.split())
    assert sorted(names) == sorted(f.name for f in fields(cls)), cls  # type: ignore[arg-type]
    slots = {name: slot for base in cls.__mro__ for name, slot in vars(base).items()}
    fill, new = tuple(slots[name].__set__ for name in names), object.__new__

    def make(*values: object) -> Made:
        made = new(cls)
        for put, value in zip(fill, values, strict=True):
            put(made, value)
        return made

    return make


_NEW = object.__new__
_SET_ITEM, _SET_POSITION, _SET_PROPENSITY = (
    vars(Shown)[name].__set__ for name in ("item_id", "position", "propensity")
)


def shown(items: Iterable[wire.ShownItem]) -> tuple[Shown, ...]:
    """The items of an exposure: most of what there is to decode, so slots are filled one by one."""
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


def _user(w: wire.AnyUserEvent, *content: object) -> tuple[object, ...]:
    """The fields of `_COMMON`; `content` is what the hash covers beyond them."""
    session, domain = w.session_id or "", w.domain or ""
    return (
        w.event_id or content_id(w.type, w.event_time, w.user_id, session, domain, *content),
        w.event_time,
        w.user_id,
        session,
        domain,
        _device(w.context),
        w.variant or "",
    )


def _shown_content(items: Sequence[wire.ShownItem] | None) -> list[tuple[object, ...]]:
    return [(i.item_id, i.position, i.propensity) for i in items or ()]


_IMPRESSION = _filler(events.Impression, "items request_id surface query")
_SEARCH = _filler(events.Search, "query request_id items")
_CLICK = _filler(events.Click, "item_id request_id surface position query")
_VIEW = _filler(events.View, "item_id surface dwell_ms completion_ratio")
_ADD_TO_CART = _filler(events.AddToCart, "item_id quantity")
_PURCHASE = _filler(events.Purchase, "item_id order_id request_id quantity price currency")
_REFUND = _filler(events.Refund, "item_id order_id")
_REVIEW = _filler(events.Review, "item_id rating text")
_SERVICE_MESSAGE = _filler(events.ServiceMessage, "text intent sentiment")
_PROFILE = _filler(events.Profile, "attributes")


def _impression(w: wire.Impression) -> events.Impression:
    query = normalise_query(w.query) if w.query else _queried(w.context)
    own = (w.request_id or "", w.surface or "home", query)
    content = () if w.event_id else (_shown_content(w.items), *own)
    return _IMPRESSION(*_user(w, *content), shown(w.items), *own)


def _search(w: wire.Search) -> events.Search:
    own = (normalise_query(w.query), w.request_id or "")
    content = () if w.event_id else (_shown_content(w.items), *own)
    return _SEARCH(*_user(w, *content), *own, shown(w.items) if w.items else ())


def _click(w: wire.Click) -> events.Click:
    query = _queried(w.context)
    own = (w.item_id, w.request_id or "", w.surface or "", w.position, query)
    return _CLICK(*_user(w, *own), *own)


def _view(w: wire.View) -> events.View:
    own = (w.item_id, w.surface or "", w.dwell_ms, w.completion_ratio)
    return _VIEW(*_user(w, *own), *own)


def _add_to_cart(w: wire.AddToCart) -> events.AddToCart:
    own = (w.item_id, w.quantity or 1)
    return _ADD_TO_CART(*_user(w, *own), *own)


def _purchase(w: wire.Purchase) -> events.Purchase:
    bought = (w.quantity or 1, w.price, w.currency or "")
    own = (w.item_id, w.order_id or "", w.request_id or "", *bought)
    return _PURCHASE(*_user(w, *own), *own)


def _refund(w: wire.Refund) -> events.Refund:
    own = (w.item_id, w.order_id)
    return _REFUND(*_user(w, *own), *own)


def _review(w: wire.Review) -> events.Review:
    own = (w.item_id, w.rating, w.text or "")
    return _REVIEW(*_user(w, *own), *own)


def _service_message(w: wire.ServiceMessage) -> events.ServiceMessage:
    own = (w.text, w.intent or "", w.sentiment or "")
    return _SERVICE_MESSAGE(*_user(w, *own), *own)


def _profile(w: wire.Profile) -> events.Profile:
    attributes = tuple(sorted((name, _text(value)) for name, value in w.attributes.items()))
    return _PROFILE(*_user(w, attributes), attributes)


def _text(value: str | float) -> str:
    """A number as text: 3 and 3.0 are one value of an attribute."""
    return value if isinstance(value, str) else f"{value:.12g}"


def _item(w: wire.Item) -> events.Item:
    fields: dict[str, Any] = {
        "time_ms": w.event_time,
        "item_id": w.item_id,
        "domain": w.domain or "",
        "title": w.title or "",
        "category": w.category or "",
        "brand": w.brand or "",
        "price": w.price,
        "available": w.available,
    }
    return events.Item(event_id=w.event_id or content_id("item", *fields.values()), **fields)


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
        arguments=tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in sorted(arguments.items())
        ),
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
