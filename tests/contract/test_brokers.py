"""One suite over every broker that we run on; a table says what each can do, and so which tests it gets."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import pytest

from stream_mtl.config import Config
from stream_mtl.cut import Cut
from stream_mtl.kafka import embedded
from stream_mtl.kafka.embedded import EmbeddedBroker
from stream_mtl.kafka.ledger_log import committed_offsets, last_record, read_ledger
from stream_mtl.kafka.plain_sink import AtLeastOnceSink
from stream_mtl.kafka.publication import noted_cut
from stream_mtl.kafka.sink import TransactionalSink
from stream_mtl.kafka.topics import ensure_topics, identities, plan
from tests.publications import first_cut, opened, publication, read_published, write_events


@dataclass(frozen=True)
class Abilities:
    transactions: bool
    creates_topics: bool
    topic_ids: bool


BROKERS = {
    "apache": Abilities(transactions=True, creates_topics=True, topic_ids=True),
    "embedded": Abilities(transactions=False, creates_topics=False, topic_ids=False),
}


def brokers(able: Callable[[Abilities], bool] = lambda _: True) -> pytest.MarkDecorator:
    """Run the test on every broker with the ability; a real one makes it an integration test."""
    return pytest.mark.parametrize(
        "config",
        [
            pytest.param(name, marks=pytest.mark.integration if name == "apache" else ())
            for name, abilities in BROKERS.items()
            if able(abilities)
        ],
        indirect=True,
    )


@pytest.fixture
def config(request: pytest.FixtureRequest, config_for: Callable[..., Config]) -> Iterator[Config]:
    """A config with all its topics on the named broker."""
    if request.param == "apache":
        made = config_for(request.getfixturevalue("bootstrap"))
        ensure_topics(made, retention_ms=-1)
        yield made
        return
    draft = config_for("unused")
    with EmbeddedBroker({name: one.partitions for name, one in plan(draft).items()}) as broker:
        kafka = draft.kafka.model_copy(update={"bootstrap": broker.bootstrap})
        yield draft.model_copy(update={"kafka": kafka})


def all_cuts(config: Config) -> list[Cut]:
    source = opened(config)
    cuts: list[Cut] = []
    try:
        while not source.at_end:
            cut = source.next_cut(len(cuts) + 1)
            if cut is not None:
                cuts.append(cut)
    finally:
        source.close()
    return cuts


@brokers()
def test_every_record_is_in_exactly_one_cut(config: Config) -> None:
    """Cuts follow each other without gap or overlap, and their counts are of what was written."""
    small = config.model_copy(update={"cut": config.cut.model_copy(update={"max_records": 300})})
    write_events(small, 1_000)
    cuts = all_cuts(small)
    values = [record.value for cut in cuts for record in cut.records]
    assert sorted(values) == sorted(b"event %d" % i for i in range(1_000))
    assert all(len(cut.records) <= 300 for cut in cuts)
    for before, after in pairwise(cuts):
        ends = {(one.topic, one.partition): one.stop for one in before.ranges}
        assert ends == {(one.topic, one.partition): one.start for one in after.ranges}


@brokers()
def test_a_recorded_cut_is_read_again_as_it_was(config: Config) -> None:
    """Roll-forward gives the same records in the same order as the live cut had."""
    write_events(config, 500)
    cuts = all_cuts(config)
    source = opened(config)
    again = [tuple(source.read(cut.ranges)) for cut in cuts]
    source.close()
    assert again == [cut.records for cut in cuts]


@brokers()
def test_a_backlog_is_cut_about_in_the_order_of_writing(config: Config) -> None:
    """The first cut of a backlog has the earliest records of all partitions, not one partition's."""
    # Long enough for every partition to show its first record, also on a slow machine.
    patient = config.cut.model_copy(update={"max_records": 200, "interval_ms": 120_000})
    small = config.model_copy(update={"cut": patient})
    write_events(small, 2_000)
    source = opened(small)
    first = first_cut(source)
    source.close()
    assert sorted(record.value for record in first.records) == sorted(
        b"event %d" % i for i in range(200)
    )


@brokers()
def test_the_plain_sink_publishes_and_notes_the_cut_with_the_offsets(config: Config) -> None:
    """Scores, dead letter, ledger record and annotated offsets of one cut are all there."""
    positions = {(config.topics.events[0], 0): 0, (config.topics.control, 0): 0}
    sink = AtLeastOnceSink(config, incarnation="i1")
    sink.open()
    committed = sink.commit(publication(7, positions))
    sink.close()
    assert [(one.key, one.value) for one in read_published(config)] != []
    assert sorted(one.key for one in read_published(config)) == ["user:0", "user:1", "user:2"]
    (letter,) = read_published(config, config.topics.dlq)
    assert (letter.value, letter.headers) == (b"\x00bad", (("reason", b"field_missing"),))
    assert last_record(config) == (committed.ledger_offset, b"ledger 7 ")
    assert {noted_cut(note) for _, note in committed_offsets(config).values()} == {7}


@brokers()
def test_a_cut_is_published_again_without_a_second_ledger_record(config: Config) -> None:
    """After a crash between outputs and offsets, `republish` sends the same bytes and moves the offsets."""
    positions = {(config.topics.events[0], 0): 0}
    one = publication(3, positions)

    class Crash(Exception):
        pass

    def crash(name: str) -> None:
        if name == "commit.flushed":
            raise Crash

    first = AtLeastOnceSink(config, failpoint=crash)
    first.open()
    with pytest.raises(Crash):
        first.commit(one)
    first.close()
    assert committed_offsets(config) == {}
    ((offset, _),) = read_ledger(config)
    second = AtLeastOnceSink(config)
    second.open()
    second.republish(one, offset)
    second.close()
    assert read_ledger(config) == [(offset, one.ledger)]
    seen = sorted((record.key, record.value) for record in read_published(config))
    assert seen == sorted(2 * [(output.key, output.value) for output in one.outputs])
    assert len(committed_offsets(config)) == 1


@brokers()
def test_an_empty_ledger_has_no_last_record(config: Config) -> None:
    """A first start sees neither records nor offsets."""
    assert (read_ledger(config), last_record(config), committed_offsets(config)) == ([], None, {})


@brokers(lambda can: can.transactions)
def test_the_transactional_sink_makes_a_cut_visible_at_once(config: Config) -> None:
    """Scores, dead letter, ledger record and annotated offsets become visible together."""
    sink = TransactionalSink(config)
    sink.open()
    sink.commit(publication(1, {(config.topics.events[0], 0): 0}))
    sink.close()
    assert len(read_published(config)) == 3
    assert len(read_published(config, config.topics.dlq)) == 1
    assert [record for _, record in read_ledger(config)] == [b"ledger 1 "]


@brokers(lambda can: can.creates_topics)
def test_missing_topics_are_created_once(config: Config) -> None:
    """A second call finds all of them."""
    fresh = config.topics.model_copy(update={"dlq": f"{config.app}.dlq2"})
    changed = config.model_copy(update={"topics": fresh})
    assert ensure_topics(changed) == [fresh.dlq]
    assert ensure_topics(changed) == []


@brokers()
def test_topics_are_identified(config: Config) -> None:
    """Partition counts everywhere; ids where the broker has them, else an empty one."""
    found = identities(config)
    assert {name: one.partitions for name, one in found.items()} == {
        name: one.partitions for name, one in plan(config).items()
    }
    ids = [one.id for one in found.values()]
    known = BROKERS["apache" if all(ids) else "embedded"].topic_ids
    assert len(set(ids)) == (len(ids) if known else 1)


def test_the_embedded_broker_can_be_away_for_a_while(config_for: Callable[..., Config]) -> None:
    """Records written before and after an outage are all there."""
    topic = f"t{uuid.uuid4().hex[:8]}"
    with EmbeddedBroker({topic: 2}) as broker:
        if not broker.full:
            pytest.skip("no fault hooks in this build of librdkafka")
        config = config_for(broker.bootstrap)
        write_events(config, 10, topic)
        broker.set_down()
        with ThreadPoolExecutor() as pool:
            writing = pool.submit(write_events, config, 10, topic, 10)
            broker.set_up()
            writing.result(120)
        assert len(read_published(config, topic)) == 20


def test_the_embedded_broker_works_without_its_c_interface(
    monkeypatch: pytest.MonkeyPatch, config_for: Callable[..., Config]
) -> None:
    """Where the wheel hides librdkafka, a plain mock serves: four partitions a topic, no fault hooks."""
    monkeypatch.setattr(embedded, "_library", lambda: None)
    topic = f"t{uuid.uuid4().hex[:8]}"
    with EmbeddedBroker({topic: 2}) as broker:
        assert not broker.full
        config = config_for(broker.bootstrap)
        write_events(config, 10, topic)
        assert len(read_published(config, topic)) == 10
