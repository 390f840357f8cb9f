"""Topics that were made the moment before: a partition comes up between two batches that are under way to it.

The broker refuses the first batch and takes the second, and the client calls both delivered (`stream_mtl.kafka.receipts`).
Here that is left to chance, which many partitions and records a moment apart help; `tests/integration/test_receipts.py`
brings it about for certain.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from unittest import mock

from confluent_kafka.cimpl import NewTopic

from benchmarks.report import note
from benchmarks.soak.row import Ground, Row
from stream_mtl import Config
from stream_mtl.cut import Cut, Output
from stream_mtl.kafka import produce
from stream_mtl.kafka import sink as sinks
from stream_mtl.kafka.produce import EventWriter, ScoreReader
from stream_mtl.kafka.publication import Publication
from stream_mtl.kafka.reach import connect
from stream_mtl.kafka.receipts import Receipts
from stream_mtl.kafka.sink import TransactionalSink
from stream_mtl.kafka.topics import ensure_topics

_PARTITIONS = 16
_RECORDS = 600
_EVERY = 3  # after so many records a moment's rest, so that the client makes several batches
_REST_S = 0.0002
_START_MS = 1_704_067_200_000


@dataclass
class Shop:
    """An app at a broker; topics of its own are made as they are needed."""

    bootstrap: str
    name: str = field(default_factory=lambda: f"fresh{uuid.uuid4().hex[:8]}")
    made: int = 0

    def config(self, scores: str = "") -> Config:
        names = ("items", "control", "acks", "scores", "dlq", "ledger")
        topics = {"events": [f"{self.name}.events"], **{n: f"{self.name}.{n}" for n in names}}
        topics["scores"] = scores or topics["scores"]
        return Config.model_validate(
            {
                "app": self.name,
                "topics": {**topics, "partitions": 1},
                "kafka": {"bootstrap": self.bootstrap},
            }
        )

    def topic(self) -> str:
        """Made, and perhaps not yet up."""
        self.made += 1
        name = f"{self.name}.{self.made}"
        admin, _ = connect(self.config())
        for made in admin.create_topics([NewTopic(name, _PARTITIONS, 1)]).values():
            made.result()
        return name

    def held(self, topic: str) -> Counter[str]:
        reader = ScoreReader(self.config(), topic)
        try:
            return Counter(record.key for record in reader.read_to_end())
        finally:
            reader.close()


@dataclass
class Tally:
    """Of all rounds: records that are not there, that are there twice, and cuts that were sent again."""

    missing: int = 0
    doubled: int = 0
    again: int = 0

    def add(self, held: Counter[str]) -> None:
        self.missing += _RECORDS - len(held)
        self.doubled += held.total() - len(held)

    def __str__(self) -> str:
        return f"{self.missing} missing, {self.doubled} doubled, {self.again} cuts sent again"


@contextlib.contextmanager
def unhurried() -> Iterator[None]:
    """The sink gives its records to the client a moment apart."""
    send = sinks.send
    sent = 0

    def late(*arguments: object) -> None:
        nonlocal sent
        sent += 1
        if sent % _EVERY == 0:
            time.sleep(_REST_S)
        send(*arguments)  # type: ignore[arg-type]

    with mock.patch.object(sinks, "send", late):
        yield


def cuts(shop: Shop, rounds: int) -> Tally:
    """Each round a cut of scores to a topic that was just made, by one sink."""
    tally = Tally()
    ensure_topics(shop.config(), retention_ms=-1)
    sink = TransactionalSink(shop.config())
    sink.open()
    positions = {(shop.config().topics.events[0], 0): 0}
    outputs = [Output(f"user:{i}", b"score", _START_MS) for i in range(_RECORDS)]
    with unhurried():
        for number in range(rounds):
            topic = shop.topic()
            sink._config = shop.config(topic)
            ledger = b"ledger %d" % number
            cut = Cut(number, (), (), _START_MS)
            done = sink.commit(Publication(cut, outputs, (), ledger, positions))
            tally.again += done.aborted
            tally.add(shop.held(topic))
    sink.close()
    return tally


def events(shop: Shop, rounds: int) -> Tally:
    """Each round events to a topic that was just made, by one writer."""
    tally = Tally()
    writer = EventWriter(shop.config())
    for _ in range(rounds):
        topic = shop.topic()
        for number in range(_RECORDS):
            time.sleep(_REST_S)
            writer.write(topic, f"u{number}", b"event")
        writer.flush()
        tally.add(shop.held(topic))
    return tally


def run(ground: Ground) -> Iterator[Row]:
    rounds = ground.dose(40, 250)
    believing = mock.patch.object(Receipts, "unplaced", return_value=0)
    hurrying = mock.patch.object(produce, "ONE_REQUEST", {})
    play: tuple[tuple[Callable[[Shop, int], Tally], str, str, mock._patch[object]], ...] = (
        (cuts, "scores", "believes the client", believing),
        (events, "events", "has several requests under way", hurrying),
    )
    with ground.broker("fresh") as server:
        for act, what, naive, patch in play:
            tally = act(Shop(server.bootstrap), rounds)
            note(f"  fresh, {what}: {tally}")
            must = f"{what} to {rounds} topics just made: none missing or doubled"
            yield Row("F", must, str(tally), not (tally.missing or tally.doubled))
            with patch:
                tally = act(Shop(server.bootstrap), rounds)
            yield Row("F", f"naive ({naive}) fails", str(tally), tally.missing > 0)
