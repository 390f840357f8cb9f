"""The rows of a step that was refused, since its loss or gradient was not finite, as dead letters.

A row is no record, so its letter is of kind `example`: labels and keys as JSON. The list key is the hash of the
event id that opened the row; where that event lies in the same cut, its coordinates are told. Rows mostly
wait for their labels, so that event usually lies in an earlier cut and is found by its hash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic_core import to_json

from schemas.scores import Reason
from stream_mtl.batch import Batch
from stream_mtl.config import Config
from stream_mtl.cut import Coordinates, Cut, Record, Reject
from stream_mtl.hashing import hash64
from stream_mtl.serde import decode

MOST = 100  # letters a step; the decision in the ledger tells how many rows there were
NOWHERE: Coordinates = ("", -1, -1)  # of the letter's headers: it is no record to be sent again


@dataclass(frozen=True, slots=True)
class Refused:
    """The rows of a step that was not taken."""

    step: int
    batch: Batch


def examples(refused: Sequence[Refused], cut: Cut, config: Config) -> list[Reject]:
    """Nobody learns from these rows, so somebody should see them: a reject each, `MOST` a step."""
    if not refused:
        return []
    behind, tasks = events_behind(cut, config), list(config.tasks)
    return [reject for one in refused for reject in of_step(one.batch, one.step, tasks, behind)]


def of_step(
    batch: Batch, step: int, tasks: Sequence[str], behind: Mapping[int, Coordinates]
) -> list[Reject]:
    """`behind`: list key -> where its event stands."""
    first = batch.rows(0, MOST)
    columns = (first.row_key_B, first.list_key_B, first.user_key_B, first.time_B)
    rows = zip(*(c.tolist() for c in columns), strict=True)
    labels = zip(first.label_BT.tolist(), first.mask_BT.tolist(), strict=True)
    return [
        _reject(
            {
                "kind": "example",
                "step": step,
                "row_key": _hex(row_key),
                "list_key": _hex(list_key),
                "user_key": _hex(user_key),
                "event_time": time_ms,
                "labels": _labels(tasks, label_T, known_T),
            },
            behind.get(list_key),
        )
        for (row_key, list_key, user_key, time_ms), (label_T, known_T) in zip(
            rows, labels, strict=True
        )
    ]


def events_behind(cut: Cut, config: Config) -> dict[int, Coordinates]:
    """Hash of the event id -> its record, of all events in the cut. Decodes them again: it is rarely asked for."""
    found: dict[int, Coordinates] = {}
    for record in cut.records:
        place = (record.topic, record.partition, record.offset)
        if place in cut.quarantined:
            continue
        event_id = getattr(decode(record, config.source, config.topics), "event_id", None)
        if event_id is not None:
            found[hash64(event_id)] = place
    return found


def _reject(value: Mapping[str, object], place: Coordinates | None) -> Reject:
    told = value if place is None else {**value, "record": list(place)}
    record = Record(*NOWHERE, str(value["row_key"]).encode(), to_json(told), None)
    return Reject(record, Reason.NONFINITE.value, "learner", "loss or gradient was not finite")


def _labels(
    tasks: Sequence[str], label_T: Sequence[float], known_T: Sequence[bool]
) -> dict[str, float | None]:
    """Those that are known; None where one is not finite."""
    rows = zip(tasks, label_T, known_T, strict=True)
    return {task: label if math.isfinite(label) else None for task, label, known in rows if known}


def _hex(key: int) -> str:
    return f"{key & (2**64 - 1):016x}"
