"""Records that are too large, and dead letters that are sent again, on a real Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from schemas.scores import REPLAYS_HEADER
from stream_mtl.config import Config
from stream_mtl.cut import CutResult, Output, Record
from stream_mtl.deadletters import KEPT_BYTES
from stream_mtl.dlq_replay import receipt_of
from stream_mtl.errors import ConfigError
from stream_mtl.kafka.ledger_log import read_ledger
from stream_mtl.kafka.plain_sink import AtLeastOnceSink
from stream_mtl.kafka.produce import EventWriter
from stream_mtl.kafka.publication import Publication
from stream_mtl.kafka.reading import read_topic
from stream_mtl.kafka.settings import client_settings, open_admin
from stream_mtl.kafka.sink import TransactionalSink
from stream_mtl.kafka.source import Source
from stream_mtl.kafka.topics import ensure_topics
from stream_mtl.serde import decode_all
from tests.publications import START_MS, publication, read_published, settle
from workers.dlq_replay import Choice, replay_letters
from workers.startup import publication_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3_600)]

FETCH = 100_000
LARGE = b'{"' + b"x" * 2_500_000  # above the fetch size, and above source.max_record_bytes
MIDDLE = b'{"' + b"y" * 400_000  # above the fetch size alone


@pytest.fixture
def config(bootstrap: str, config_for: Callable[..., Config]) -> Config:
    made = config_for(
        bootstrap,
        kafka={
            "consumer": {"fetch.message.max.bytes": FETCH, "max.partition.fetch.bytes": FETCH},
            "producer": {"message.max.bytes": 5_000_000},
        },
    )
    ensure_topics(made, retention_ms=-1)
    limit(made, made.topics.events[0], 5_000_000)
    return made


def limit(config: Config, topic: str, most: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(most), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = open_admin(client_settings(config))  # its answers end with it
    for done in admin.incremental_alter_configs([resource]).values():
        done.result()
    asked = ConfigResource(ResourceType.TOPIC, topic)
    deadline = time.monotonic() + 120
    while True:  # the brokers learn of it a moment later
        (found,) = admin.describe_configs([asked]).values()
        if found.result()["max.message.bytes"].value == str(most):
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Worker:
    """Source and sink of a trainer with nothing but the refusing of records between them."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._source, self._sink = Source(config, lambda: START_MS), TransactionalSink(config)
        self._sink.open()
        self._source.open({})
        self._number = 0

    def drain(self) -> list[Record]:
        """Everything that is there, cut by cut."""
        seen: list[Record] = []
        settle(self._config, self._config.topics.events[0])
        while not self._source.at_end:
            cut = self._source.next_cut(self._number)
            if cut is None:
                continue
            seen += cut.records
            rejects = decode_all(cut.records, self._config.source, self._config.topics).rejects
            result = CutResult(cut.number, (), tuple(rejects), {}, "", "", START_MS)
            ledger = b"%d" % cut.number
            self._sink.commit(publication_of(self._config, cut, result, ledger, "lineage"))
            self._number += 1
        return seen

    def close(self) -> None:
        self._source.close()
        self._sink.close()


@pytest.fixture
def worker(config: Config) -> Iterator[Worker]:
    one = Worker(config)
    yield one
    one.close()


def write(config: Config, *values: bytes) -> None:
    writer = EventWriter(config)
    for value in values:
        writer.write(config.topics.events[0], b"u1", value, START_MS)
    writer.flush()


def letters(config: Config) -> list[Record]:
    settle(config, config.topics.dlq)
    return [r for r in read_topic(config, config.topics.dlq) if receipt_of(r) is None]


def test_a_record_above_the_fetch_size_or_the_limit_blocks_nothing(
    config: Config, worker: Worker
) -> None:
    """All are read; the one above our limit is a letter cut short, the other a whole one."""
    write(config, b"{", LARGE, MIDDLE, b"[")
    assert [len(r.value or b"") for r in worker.drain()] == [1, len(LARGE), len(MIDDLE), 1]
    sizes = sorted(len(letter.value or b"") for letter in letters(config))
    assert sizes == [1, 1, KEPT_BYTES, len(MIDDLE)]


def test_letters_are_sent_again_once_each_whole_and_not_for_ever(
    config: Config, worker: Worker
) -> None:
    """What was cut short comes whole from the log; the counter ends the circle of a record that stays bad."""
    write(config, b"{", LARGE)
    worker.drain()
    assert replay_letters(config, Choice(dry_run=True))["replayed"] == 2
    assert replay_letters(config, Choice(reasons=frozenset({"not_json"})))["replayed"] == 1
    first = replay_letters(config, Choice())
    assert (first["replayed"], first["before"], first["refused"]) == (1, 1, {})
    second = replay_letters(config, Choice())
    assert (second["replayed"], second["before"]) == (0, 2)

    again = worker.drain()
    assert sorted(len(r.value or b"") for r in again) == [1, len(LARGE)]
    assert {r.headers for r in again} == {((REPLAYS_HEADER, b"1"),)}
    assert {(r.key, r.timestamp_ms) for r in again} == {(b"u1", START_MS)}

    for _ in range(config.dlq.max_replays - 1):
        assert replay_letters(config, Choice())["replayed"] == 2
        assert len(worker.drain()) == 2
    assert replay_letters(config, Choice())["refused"] == {"max_replays": 2}
    assert worker.drain() == []
    assert len(letters(config)) == 2 * (config.dlq.max_replays + 1)


def test_again_and_one_letter_alone(config: Config, worker: Worker) -> None:
    write(config, b"{", b"[")
    worker.drain()
    one = letters(config)[0]
    place = (one.partition, one.offset)
    assert replay_letters(config, Choice(place=place))["replayed"] == 1
    assert replay_letters(config, Choice(place=place))["replayed"] == 0
    assert replay_letters(config, Choice(place=place, again=True))["replayed"] == 1
    assert replay_letters(config, Choice(limit=1))["replayed"] == 1
    assert sorted(r.value or b"" for r in worker.drain()) == sorted(
        [one.value or b"", one.value or b"", b"[" if one.value == b"{" else b"{"]
    )


@pytest.mark.parametrize("kind", [TransactionalSink, AtLeastOnceSink])
def test_a_score_that_its_topic_does_not_take_is_told_to_a_person_and_sent_when_it_is_mended(
    config: Config, kind: type[TransactionalSink] | type[AtLeastOnceSink]
) -> None:
    """Exit code 78, which says that a restart alone mends nothing; nothing of the cut is visible."""
    limit(config, config.topics.scores, 1_000)
    small = publication(0, {(config.topics.events[0], 0): 3}, outputs=1)
    large = Publication(
        small.cut,
        [*small.outputs, Output("user:u", b"x" * 5_000, START_MS)],
        [],
        small.ledger,
        small.positions,
    )
    sink = kind(config)
    sink.open()
    with pytest.raises(ConfigError, match="larger than its topic takes"):
        sink.commit(large)
    sink.close()
    if kind is TransactionalSink:
        assert read_published(config) == []
        assert read_ledger(config) == []
    limit(config, config.topics.scores, 1_000_000)
    mended = kind(config)
    mended.open()
    mended.commit(large)
    mended.close()
    assert sorted({len(p.value or b"") for p in read_published(config)}) == [3, 5_000]
