"""From an event's produce call to the moment at which a subscriber holds a list that knows of it."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import from_json

from benchmarks.report import note
from benchmarks.trainer_process import read_diary
from schemas.scores import CUT_HEADER, LedgerRecord
from stream_mtl.config import Config
from stream_mtl.kafka.ledger_log import read_ledger
from stream_mtl.kafka.produce import ScoreReader
from stream_mtl.kafka.settings import open_producer, producer_settings
from stream_mtl.simulator import Simulated

WARM_S = 300.0  # the backlog before the clock runs
AFTER_S = 10.0  # the last lists come within


@dataclass(frozen=True)
class Latency:
    events: int
    unanswered: int  # events whose user had no later list in the time
    rate: float  # events a second, as written
    p50: float
    p99: float


@dataclass(slots=True)
class Sent:
    """One event on its way."""

    user: str
    at: float  # monotonic seconds at the produce call
    place: tuple[str, int] | None = None
    offset: int = -1


class Subscriber(threading.Thread):
    """Notes for every list when it was seen, and of which cut it is."""

    def __init__(self, config: Config) -> None:
        super().__init__(daemon=True)
        self._reader, self._ended = ScoreReader(config), threading.Event()
        self.seen: dict[str, list[tuple[int, float]]] = defaultdict(list)  # key -> (cut, when)

    def run(self) -> None:
        while not self._ended.is_set():
            records = self._reader.read(0.02, 100)
            now = time.monotonic()
            for record in records:
                cut = int(dict(record.headers)[CUT_HEADER] or b"-1")
                self.seen[record.key].append((cut, now))
        self._reader.close()

    def end(self) -> None:
        self._ended.set()
        self.join()


def live(
    config: Config, diary: Path, shop: Sequence[Simulated], warm: int, rate: float, seconds: float
) -> Latency:
    """Wait until the trainer has read `warm` events, then write at `rate` for `seconds`."""
    deadline = time.monotonic() + WARM_S
    while sum(cut["events"] for cut in read_diary(diary)) < warm:
        assert time.monotonic() < deadline, "the trainer did not read its backlog"
        time.sleep(0.5)
    subscriber = Subscriber(config)
    subscriber.start()
    time.sleep(2.0)
    note(f"latency: {rate:.0f} events/s for {seconds:.0f} s")
    sent, took = write(config, shop[: int(rate * seconds)], rate)
    time.sleep(AFTER_S)
    subscriber.end()
    cuts = cuts_by_place(config)
    found, unanswered = [], 0
    for event in sent:
        assert event.place is not None, "an event was not delivered"
        cut = cut_of(cuts[event.place], event.offset)
        later = [when for number, when in subscriber.seen[f"user:{event.user}"] if number >= cut]
        if later:
            found.append(later[0] - event.at)
        else:
            unanswered += 1
    p50, p99 = (float(p) for p in np.percentile(found, (50, 99)))
    return Latency(len(found), unanswered, took, p50, p99)


def write(config: Config, shop: Sequence[Simulated], rate: float) -> tuple[list[Sent], float]:
    """Paced; the user events among the records, and how many records a second were written."""
    producer = open_producer({**producer_settings(config), "linger.ms": 5})
    sent: list[Sent] = []
    began = time.monotonic()
    for number, record in enumerate(shop):
        while (ahead := number / rate - (time.monotonic() - began)) > 0:
            producer.poll(min(ahead, 0.005))
        item = record.topic_kind == "items"
        topic = config.topics.items if item else config.topics.events[0]
        note_of = _noted(record, sent) if not item else None
        producer.produce(
            topic, record.value, record.key, timestamp=record.event_time, on_delivery=note_of
        )
        producer.poll(0)
    took = len(shop) / (time.monotonic() - began)
    producer.flush(30.0)
    return sent, took


def _noted(record: Simulated, sent: list[Sent]) -> Any:
    event = Sent(str(from_json(record.value or b"{}")["user_id"]), time.monotonic())
    sent.append(event)

    def delivered(error: Any, message: Any) -> None:
        assert error is None, error
        event.place, event.offset = (message.topic(), message.partition()), message.offset()

    return delivered


def cuts_by_place(config: Config) -> dict[tuple[str, int], tuple[list[int], list[int]]]:
    """For every partition where its ranges start, ascending, and the cut of each."""
    starts: dict[tuple[str, int], tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for _, raw in read_ledger(config):
        record = LedgerRecord.model_validate_json(raw)
        for one in record.ranges:
            if one.stop > one.start:
                first, number = starts[one.topic, one.partition]
                first.append(one.start)
                number.append(record.cut)
    return starts


def cut_of(starts: tuple[list[int], list[int]], offset: int) -> int:
    first, number = starts
    return number[bisect_right(first, offset) - 1]
