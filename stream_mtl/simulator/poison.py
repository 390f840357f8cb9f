"""Bad records of every kind that a consumer meets, each made from the good one before it.

All but duplicates speak of users and items that nobody else knows: a consumer that lets one through does
not change the truth of the others.
"""

from __future__ import annotations

import json

from stream_mtl.config import DAY
from stream_mtl.simulator.record import Simulated

KINDS = (
    "oversized",
    "broken_json",
    "bad_utf8",
    "null_value",
    "unknown_type",
    "missing_field",
    "mistyped_field",
    "nan_price",
    "far_past",
    "far_future",
    "duplicate",
    "empty",
)
OVERSIZED_BYTES = 1_000_100  # just over the default limit of a record
# An oversized record weighs as much as thousands of others: every 40th round is enough.
_OVERSIZED_EVERY = 40
_USER = "u-poison"


def kind_of(number: int) -> str:
    """Which kind the `number`-th poisoned record is, from 0: all in turn."""
    kind = KINDS[number % len(KINDS)]
    rare = kind == "oversized" and number // len(KINDS) % _OVERSIZED_EVERY != 0
    return "broken_json" if rare else kind


def _value(kind: str, event_id: str, now: int) -> bytes | None:
    event: dict[str, object] = {
        "type": "click",
        "event_id": event_id,
        "event_time": now,
        "user_id": _USER,
        "item_id": "i-poison",
    }
    if kind == "oversized":
        event |= {"type": "review", "text": "x" * OVERSIZED_BYTES}
    elif kind == "unknown_type":
        event["type"] = "teleport"
    elif kind == "missing_field":
        del event["item_id"]
    elif kind == "mistyped_field":
        event["item_id"] = {"not": "a string"}
    elif kind == "nan_price":
        event |= {"type": "purchase", "price": float("nan")}
    elif kind == "far_past":
        event["event_time"] = now - 60 * DAY
    elif kind == "far_future":
        event["event_time"] = now + 30 * DAY
    text = json.dumps(event, separators=(",", ":")).encode()
    if kind == "broken_json":
        return text[: len(text) // 2]
    if kind == "bad_utf8":
        return text.replace(b"i-poison", b"i-\xff\xfe")
    return {"null_value": None, "empty": b""}.get(kind, text)


def poisoned(number: int, good: Simulated) -> Simulated:
    """The `number`-th bad record; it follows `good` at the same time. A duplicate is `good` once more."""
    kind = kind_of(number)
    if kind == "duplicate":
        return Simulated(
            good.topic_kind, good.key, good.value, good.event_time, good.event_id, poison=kind
        )
    event_id = f"poison{number:07d}"
    value = _value(kind, event_id, good.event_time)
    return Simulated("events", _USER.encode(), value, good.event_time, event_id, poison=kind)
