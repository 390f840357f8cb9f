"""What was committed, asked of a broker that has only just come back or has lost its leader."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from schemas.scores import TopicIdentity
from stream_mtl.config import Config
from stream_mtl.errors import BrokerUnavailable, StorageError
from stream_mtl.kafka import ledger_log
from stream_mtl.kafka import reader as reader_module
from stream_mtl.kafka.ledger_log import committed_offsets, last_record, read_ledger
from stream_mtl.kafka.reader import Reader
from stream_mtl.kafka.topics import input_topics

CONFIG = Config.model_validate({"kafka": {"bootstrap": "nobody:9092"}})
LEDGER = CONFIG.topics.ledger


class Message:
    def __init__(self, offset: int, value: bytes = b"", error: int | None = None) -> None:
        self._offset, self._value = offset, value
        self._error = None if error is None else KafkaError(error)

    def topic(self) -> str:
        return CONFIG.topics.events[0]

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def value(self) -> bytes:
        return self._value

    def error(self) -> KafkaError | None:
        return self._error


class Client:
    """A consumer that gives what it is told: batches of messages, topics with faults, offsets with faults."""

    def __init__(
        self,
        batches: list[list[Message]] | None = None,
        end: int = 0,
        topic_fault: int | None = None,
        partition_fault: int | None = None,
    ) -> None:
        self.batches, self.end = batches or [], end
        self.topic_fault, self.partition_fault = topic_fault, partition_fault
        self.assigned: list[int] = []

    def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
        return 0, self.end

    def assign(self, places: list[TopicPartition]) -> None:
        self.assigned += [place.offset for place in places]

    def consume(self, count: int, timeout: float) -> list[Message]:
        return self.batches.pop(0)

    def list_topics(self, topic: str, timeout: float) -> Any:
        error = None if self.topic_fault is None else KafkaError(self.topic_fault)
        partitions = {} if error else {0: None}
        return SimpleNamespace(topics={topic: SimpleNamespace(error=error, partitions=partitions)})

    def committed(self, places: list[TopicPartition], timeout: float) -> list[Any]:
        error = None if self.partition_fault is None else KafkaError(self.partition_fault)
        return [
            SimpleNamespace(
                topic=p.topic, partition=p.partition, offset=-1001, metadata=None, error=error
            )
            for p in places
        ]

    def close(self) -> None: ...


def client(monkeypatch: pytest.MonkeyPatch, **told: Any) -> Client:
    made = Client(**told)
    monkeypatch.setattr(ledger_log, "open_consumer", lambda settings: made)
    return made


END = KafkaError._PARTITION_EOF


def test_an_end_before_the_one_that_the_broker_told_is_no_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new leader shows an earlier one for a moment: taken for the end, a cut would be sent a second time."""
    batches = [
        [Message(0, b"a"), Message(2, error=END)],
        [Message(2, b"b"), Message(4, error=END)],
    ]
    made = client(monkeypatch, batches=batches, end=4)
    assert read_ledger(CONFIG, 0) == [(0, b"a"), (2, b"b")]
    assert made.assigned == [0, 1]
    client(
        monkeypatch,
        batches=[[Message(2, error=END)], [Message(2, b"b"), Message(4, error=END)]],
        end=4,
    )
    assert last_record(CONFIG) == (2, b"b")


def test_a_ledger_that_cannot_be_read_ends_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client goes on behind a damaged batch, and the record before it would look like the newest."""
    batches = [[Message(0, b"a"), Message(1, error=KafkaError._BAD_MSG), Message(9, error=END)]]
    client(monkeypatch, batches=batches, end=9)
    with pytest.raises(
        StorageError, match=rf"{LEDGER}\[0\]: the records from offset 1 on are damaged"
    ):
        read_ledger(CONFIG, 0)


@pytest.mark.parametrize(
    "fault",
    [
        {"topic_fault": KafkaError.UNKNOWN_TOPIC_OR_PART},
        {"topic_fault": KafkaError.LEADER_NOT_AVAILABLE},
        {"partition_fault": KafkaError.COORDINATOR_LOAD_IN_PROGRESS},
    ],
    ids=str,
)
def test_offsets_that_cannot_be_told_are_not_nobodys(
    monkeypatch: pytest.MonkeyPatch, fault: dict[str, int]
) -> None:
    """A worker that reads them as nobody's fences the one that has taken over."""
    client(monkeypatch, **fault)
    with pytest.raises(BrokerUnavailable, match="reading committed offsets of shop"):
        committed_offsets(CONFIG)


def test_offsets_that_were_never_committed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    client(monkeypatch)
    assert committed_offsets(CONFIG) == {}


def test_a_reader_does_not_go_on_behind_damaged_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events would be lost without a word."""
    monkeypatch.setattr(reader_module, "open_consumer", lambda settings: made)
    topics = {name: TopicIdentity(id="", partitions=1) for name in input_topics(CONFIG)}
    monkeypatch.setattr(reader_module, "identities", lambda config: topics)
    made = Client(batches=[[Message(0, error=KafkaError._BAD_MSG), Message(7, b"next")]], end=9)
    reader = Reader(CONFIG, 0)
    reader.open({})
    with pytest.raises(StorageError, match=r"shop\.events\[0\]: the records from offset 0 on"):
        reader.poll(10, 0.0)
