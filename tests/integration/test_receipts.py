"""Two batches under way to a partition that only just comes up: the first is lost, and the client calls it delivered.

`Proxy.lead_astray` brings about what a broker does at that moment (KAFKA-15591).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from benchmarks.soak.proxy import Proxy
from stream_mtl.config import Config
from stream_mtl.kafka.ledger_log import last_record
from stream_mtl.kafka.plain_sink import AtLeastOnceSink
from stream_mtl.kafka.produce import EventWriter
from stream_mtl.kafka.publication import Wire
from stream_mtl.kafka.receipts import Receipts
from stream_mtl.kafka.server import KafkaServer
from stream_mtl.kafka.settings import open_producer, producer_settings
from stream_mtl.kafka.sink import TransactionalSink, send
from stream_mtl.kafka.topics import ensure_topics
from tests.publications import publication, read_published

pytestmark = pytest.mark.integration
RECORDS = 20


@pytest.fixture(scope="module")
def proxy(kafka_jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """On the way to a broker of its own."""
    folder = tmp_path_factory.mktemp("kafka")
    with (
        Proxy(0) as proxy,
        KafkaServer(folder, jars=kafka_jars, advertise=proxy.port) as server,
    ):
        proxy.target = server.behind
        yield proxy


@pytest.fixture
def config(proxy: Proxy, config_for: Callable[..., Config]) -> Config:
    """Topics with one partition."""
    made = config_for(proxy.bootstrap)
    made = made.model_copy(update={"topics": made.topics.model_copy(update={"partitions": 1})})
    ensure_topics(made, retention_ms=-1)
    return made


@pytest.fixture(autouse=True)
def two_batches(proxy: Proxy, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink's first score is under way before it has the second, however long that takes."""
    waited: list[str] = []

    def first_alone(producer: Producer, wire: Wire, receipts: Receipts) -> None:
        send(producer, wire, receipts)
        if wire.topic == config.topics.scores and not waited:
            waited.append(wire.topic)
            proxy.await_first()

    monkeypatch.setattr("stream_mtl.kafka.sink.send", first_alone)
    monkeypatch.setattr("stream_mtl.kafka.plain_sink.send", first_alone)


def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a sink that believes what it is told."""
    monkeypatch.setattr(Receipts, "unplaced", lambda self: 0)


def commit(sink: TransactionalSink | AtLeastOnceSink, config: Config) -> tuple[Any, list[str]]:
    sink.open()
    try:
        committed = sink.commit(publication(1, {(config.topics.events[0], 0): 10}, RECORDS))
    finally:
        sink.close()
    return committed, [record.key for record in read_published(config)]


def test_a_cut_with_a_record_that_nobody_has_is_sent_again(proxy: Proxy, config: Config) -> None:
    """Nothing is missing, nothing twice, and the operator reads why there was another producer."""
    proxy.lead_astray(config.topics.scores, 0)
    committed, keys = commit(TransactionalSink(config), config)
    assert proxy.led_astray
    assert (committed.aborted, committed.recreations) == (1, ("unplaced",))
    assert keys == [f"user:{i}" for i in range(RECORDS)]
    assert last_record(config) == (committed.ledger_offset, b"ledger 1 ")


def test_a_sink_that_believes_the_client_loses_scores(
    proxy: Proxy, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The naive variant: a confirmed cut, and some of its scores nowhere."""
    blind(monkeypatch)
    proxy.lead_astray(config.topics.scores, 0)
    committed, keys = commit(TransactionalSink(config), config)
    assert (committed.aborted, committed.recreations) == (0, ())
    assert 0 < len(keys) < RECORDS


def test_at_least_once_means_each_record(proxy: Proxy, config: Config) -> None:
    proxy.lead_astray(config.topics.scores, 0)
    committed, keys = commit(AtLeastOnceSink(config), config)
    assert proxy.led_astray
    assert committed.recreations == ("unplaced",)
    assert set(keys) == {f"user:{i}" for i in range(RECORDS)}


def test_events_are_written_one_request_at_a_time(proxy: Proxy, config: Config) -> None:
    """So the fault has no second batch to happen with."""
    topic = config.topics.events[0]
    proxy.lead_astray(topic, 0)
    writer = EventWriter(config)
    for i in range(RECORDS):
        writer.write(topic, f"u{i}", b"event")
        if i == 0:
            proxy.await_first()
    writer.flush()
    assert not proxy.led_astray
    found = [record.key for record in read_published(config, topic)]
    assert found == [f"u{i}" for i in range(RECORDS)]


def test_a_writer_with_more_requests_under_way_loses_events(proxy: Proxy, config: Config) -> None:
    """The naive variant: told of so many deliveries, and the log holds fewer."""
    topic = config.topics.events[0]
    proxy.lead_astray(topic, 0)
    producer, told = open_producer(producer_settings(config)), []
    for i in range(RECORDS):
        producer.produce(topic, b"event", f"u{i}", on_delivery=lambda error, _: told.append(error))
        if i == 0:
            proxy.await_first()
    producer.flush(30)
    assert told == [None] * RECORDS
    assert 0 < len(read_published(config, topic)) < RECORDS
