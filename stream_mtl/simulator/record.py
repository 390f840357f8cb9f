"""What the shop emits: wire records as bytes, with the truth beside them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import pydantic_core

# item id, P(click), P(click and buy), position from 1
TruthRow = tuple[str, float, float, int]


@dataclass(frozen=True, slots=True)
class Simulated:
    """One record of the log.

    `event_time` is the shop's time in ms, also the Kafka timestamp; a poisoned record may claim another
    one. `value` None is a Kafka null: a withdrawn item, or poison. `truth` is there for exposures only.
    `poison` names what is wrong with the record, None for a good one. `attack`: well formed, and meant to mislead.
    """

    topic_kind: Literal["events", "items"]
    key: bytes | None
    value: bytes | None
    event_time: int
    event_id: str
    truth: tuple[TruthRow, ...] | None = None
    poison: str | None = None
    attack: bool = False


def as_line(record: Simulated) -> bytes:
    """The record as a line of a file, which has no keys and no nulls.

    A withdrawn item becomes an item that is not available; another null becomes the JSON null.
    """
    if record.value is not None:
        return record.value
    if record.topic_kind == "items" and record.key is not None:
        return (
            b'{"type":"item","event_id":"%b","event_time":%d,"item_id":"%b","available":false}'
            % (record.event_id.encode(), record.event_time, record.key)
        )
    return b"null"


def truth_lines(records: Iterable[Simulated]) -> Iterator[bytes]:
    """One JSON line an exposure row: event_id, item_id, position, p_click, p_purchase, event_time."""
    for record in records:
        for item_id, p_click, p_purchase, position in record.truth or ():
            yield pydantic_core.to_json(
                {
                    "event_id": record.event_id,
                    "item_id": item_id,
                    "position": position,
                    "p_click": p_click,
                    "p_purchase": p_purchase,
                    "event_time": record.event_time,
                }
            )
