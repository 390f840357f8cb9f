"""Wire models of the input events, version 1: what producers of our topics promise.

One event a record, JSON in UTF-8; `type` decides the model. Optional fields may be left out or null.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from schemas.wire import (
    Amount,
    Attributes,
    Count,
    Duration,
    FlatMap,
    Id,
    Label,
    Message,
    Position,
    Query,
    Ratio,
    Time,
    Wire,
)


class ShownItem(Wire):
    """One item of an exposure."""

    item_id: Id
    position: Position | None = None
    propensity: Annotated[float, Field(gt=0, le=1)] | None = None
    campaign_id: Id | None = None
    bid: Amount | None = None


class UserEvent(Message):
    """Fields that every event of a user has."""

    event_time: Time
    user_id: Id
    event_id: Id | None = None
    session_id: Id | None = None
    domain: Label | None = None
    context: FlatMap | None = None
    variant: Label | None = None


class Impression(UserEvent):
    """Items that a user was shown: opens the label windows."""

    type: Literal["impression"]
    items: Annotated[list[ShownItem], Field(min_length=1, max_length=1_000)]
    request_id: Id | None = None
    surface: Label | None = None
    query: Query | None = None


class Click(UserEvent):
    type: Literal["click"]
    item_id: Id
    request_id: Id | None = None
    position: Position | None = None
    surface: Label | None = None


class View(UserEvent):
    """A page or a video was looked at; counts as a click when none came before."""

    type: Literal["view"]
    item_id: Id
    dwell_ms: Duration | None = None
    completion_ratio: Ratio | None = None
    surface: Label | None = None


class AddToCart(UserEvent):
    type: Literal["add_to_cart"]
    item_id: Id
    quantity: Count | None = None


class Purchase(UserEvent):
    """One bought product; an order of several products is several events."""

    type: Literal["purchase"]
    item_id: Id
    order_id: Id | None = None
    quantity: Count | None = None
    price: Amount | None = None
    currency: Label | None = None
    request_id: Id | None = None


class Refund(UserEvent):
    """Takes a purchase back."""

    type: Literal["refund"]
    item_id: Id
    order_id: Id


class Search(UserEvent):
    """A query; with `items` (its listed results) it is an exposure too."""

    type: Literal["search"]
    query: Query
    request_id: Id | None = None
    items: Annotated[list[ShownItem], Field(max_length=1_000)] | None = None


class Review(UserEvent):
    type: Literal["review"]
    item_id: Id
    rating: Annotated[float, Field(ge=1, le=5)] | None = None
    text: str | None = None


class ServiceMessage(UserEvent):
    """A message to customer service, with labels where somebody gave them."""

    type: Literal["service_message"]
    text: str
    intent: Label | None = None
    sentiment: Literal["negative", "neutral", "positive"] | None = None


class Profile(UserEvent):
    type: Literal["profile"]
    attributes: FlatMap


class Item(Message):
    """Catalogue record; a later one replaces an earlier one field by field."""

    type: Literal["item"]
    event_time: Time
    item_id: Id
    event_id: Id | None = None
    session_id: Id | None = None
    domain: Label | None = None
    context: FlatMap | None = None
    variant: Label | None = None
    title: str | None = None
    category: Label | None = None
    brand: Label | None = None
    price: Amount | None = None
    available: bool | None = None
    vectors: dict[Label, list[float] | list[list[float]]] | None = None
    attributes: Attributes | None = None


AnyUserEvent = (
    Impression
    | Click
    | View
    | AddToCart
    | Purchase
    | Refund
    | Search
    | Review
    | ServiceMessage
    | Profile
)
AnyInput = AnyUserEvent | Item

EVENTS: dict[str, type[AnyInput]] = {
    "add_to_cart": AddToCart,
    "click": Click,
    "impression": Impression,
    "item": Item,
    "profile": Profile,
    "purchase": Purchase,
    "refund": Refund,
    "review": Review,
    "search": Search,
    "service_message": ServiceMessage,
    "view": View,
}
ADAPTER: TypeAdapter[AnyInput] = TypeAdapter(Annotated[AnyInput, Field(discriminator="type")])
