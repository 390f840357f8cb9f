"""The source against a real broker: holes, gaps, foreign positions, long steps, absent and changed topics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from stream_mtl.config import Config
from stream_mtl.cut import Cut, Range, Record
from stream_mtl.errors import (
    BrokerUnavailable,
    ConfigError,
    PositionLost,
    RollForwardMismatch,
    TopicChanged,
)
from stream_mtl.kafka import bounds as bounds_module
from stream_mtl.kafka import topics as topics_module
from stream_mtl.kafka.embedded import FETCH, EmbeddedBroker
from stream_mtl.kafka.produce import EventWriter
from stream_mtl.kafka.server import KafkaServer
from stream_mtl.kafka.source import Source
from stream_mtl.kafka.topics import check_identities, ensure_topics, identities, plan
from tests.publications import START_MS, first_cut, opened, write_events

ConfigFactory = Callable[..., Config]
OFFSET_OUT_OF_RANGE = 1


def cuts_for(source: Source, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        source.next_cut(1)


@pytest.fixture
def config(bootstrap: str, config_for: ConfigFactory) -> Config:
    made = config_for(bootstrap)
    ensure_topics(made, retention_ms=-1)
    return made


def drained(source: Source, patience_s: float = 60.0) -> list[Cut]:
    """Cuts until every partition is at its end."""
    cuts: list[Cut] = []
    deadline = time.monotonic() + patience_s
    while not source.at_end:
        assert time.monotonic() < deadline, "the source never came to its end"
        cut = source.next_cut(len(cuts) + 1)
        if cut is not None:
            cuts.append(cut)
    return cuts


def values(records: list[Record] | tuple[Record, ...]) -> list[bytes]:
    return sorted(record.value or b"" for record in records)


def written_in_transactions(config: Config, aborted_last: bool = False) -> list[bytes]:
    """Events with holes between them: markers, and a transaction that was aborted."""
    producer = Producer(
        {"bootstrap.servers": config.kafka.bootstrap, "transactional.id": f"{config.app}.shop"}
    )
    producer.init_transactions()
    kept = []
    for number in range(6):
        producer.begin_transaction()
        for i in range(5):
            value = b"%d.%d" % (number, i)
            producer.produce(config.topics.events[0], value, partition=0)
            if number % 2 == 0:
                kept.append(value)
        if number % 2 == 0:
            producer.commit_transaction()
        else:
            producer.flush()
            producer.abort_transaction()
    return sorted(kept)


def expire(config: Config, partition: int, before: int) -> None:
    """Delete the records of an event partition below an offset, as retention does."""
    admin = AdminClient({"bootstrap.servers": config.kafka.bootstrap})
    place = TopicPartition(config.topics.events[0], partition, before)
    for future in admin.delete_records([place]).values():
        future.result()


@pytest.mark.integration
def test_holes_of_markers_and_aborted_records_are_no_records(config: Config) -> None:
    """Only committed records are cut; the end is reached although offsets never add up; lag is 0."""
    kept = written_in_transactions(config)
    source = opened(config)
    cuts = drained(source)
    assert values([record for cut in cuts for record in cut.records]) == kept
    records = sum(one.records for cut in cuts for one in cut.ranges)
    assert records < sum(one.stop - one.start for cut in cuts for one in cut.ranges)
    assert set(source.lag().values()) == {0}
    positions = source.positions
    source.close()
    again = opened(config)
    assert [values(again.read(cut.ranges)) for cut in cuts] == [values(c.records) for c in cuts]
    assert again.positions == positions
    again.close()


@pytest.mark.integration
def test_an_open_transaction_holds_the_end_back(config: Config) -> None:
    """Records of an unfinished transaction are neither cut nor waited for."""
    producer = Producer(
        {"bootstrap.servers": config.kafka.bootstrap, "transactional.id": f"{config.app}.shop"}
    )
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(config.topics.events[0], b"open", partition=0)
    producer.flush()
    source = opened(config)
    assert drained(source) == []
    producer.commit_transaction()
    cut = None
    while cut is None:
        cut = source.next_cut(1)
    assert values(cut.records) == [b"open"]


@pytest.mark.integration
def test_what_waits_behind_an_open_transaction_is_told(config: Config) -> None:
    """The lag is 0, rightly, and would be all that an operator sees; what came before and after it counts for nothing."""
    place = (config.topics.events[0], 0)
    written_in_transactions(config)
    source = opened(config)
    drained(source)
    assert source.unstable(fresh=True) == {}
    at = source.positions[place]
    producer = Producer(
        {"bootstrap.servers": config.kafka.bootstrap, "transactional.id": f"{config.app}.other"}
    )
    producer.init_transactions()
    producer.begin_transaction()
    for value in (b"1", b"2", b"3"):
        producer.produce(place[0], value, partition=0)
    producer.flush()
    deadline = time.monotonic() + 30
    while not source.unstable(fresh=True):
        assert source.next_cut(9) is None
        assert time.monotonic() < deadline, "an open transaction was never told of"
    found = source.unstable()
    assert found.keys() == {place}
    assert found[place].offsets == 3
    assert found[place].stable >= at
    assert set(source.lag().values()) == {0}
    producer.abort_transaction()
    while source.unstable(fresh=True):
        source.next_cut(9)
        assert time.monotonic() < deadline, "the end of the transaction was never seen"
    source.close()
    source.close()


@pytest.mark.integration
def test_idle_partitions_stand_in_every_cut(config: Config) -> None:
    """Each range list names all owned partitions, so that every commit can hold the whole position."""
    write_events(config, 10)
    source = opened(config)
    cuts = drained(source)
    source.close()
    for cut in cuts:
        assert len(cut.ranges) == 4 + 4 + 1
        idle = [one for one in cut.ranges if one.topic == config.topics.control]
        assert [(one.start, one.stop, one.records) for one in idle] == [(0, 0, 0)]


@pytest.mark.integration
def test_expired_records_stop_the_worker_by_default(config: Config) -> None:
    """The message names topic, wanted and available offsets and the remedies."""
    write_events(config, 100)
    expire(config, partition=0, before=5)
    with pytest.raises(PositionLost, match=r"wanted offset 2, the log holds 5 .*on_gap"):
        opened(config, {(config.topics.events[0], 0): 2})


@pytest.mark.integration
def test_expired_records_can_be_skipped_and_are_counted(config: Config) -> None:
    """With on_gap = skip the source goes on at the log's start and says how many offsets it lost."""
    write_events(config, 100)
    expire(config, partition=0, before=5)
    skipping = config.model_copy(
        update={"source": config.source.model_copy(update={"on_gap": "skip"})}
    )
    source = opened(skipping, {(config.topics.events[0], 0): 2})
    drained(source)
    assert source.gap_records == {config.topics.events[0]: 3}
    source.close()


@pytest.mark.integration
def test_a_position_beyond_the_end_is_refused(config: Config) -> None:
    """A truncated or recreated log is never taken for an idle one."""
    write_events(config, 10)
    with pytest.raises(PositionLost, match=r"wanted offset 1000, the log ends at"):
        opened(config, {(config.topics.events[0], 0): 1_000})


@pytest.mark.integration
def test_a_range_that_expired_cannot_be_rolled_forward(config: Config) -> None:
    """Reading a recorded cut again fails loudly, also with on_gap = skip."""
    write_events(config, 200)
    skipping = config.model_copy(
        update={"source": config.source.model_copy(update={"on_gap": "skip"})}
    )
    source = opened(skipping)
    cuts = drained(source)
    expire(config, partition=0, before=10)
    with pytest.raises(PositionLost, match="wanted offset 0"):
        source.read(cuts[0].ranges)
    source.close()


@pytest.mark.integration
@pytest.mark.parametrize(
    "changed",
    [lambda one: replace(one, digest="0" * 32), lambda one: replace(one, records=one.records + 1)],
    ids=["digest", "records"],
)
def test_other_records_than_the_cut_saw_are_noticed(
    config: Config, changed: Callable[[Range], Range]
) -> None:
    """A changed count or hash of one range refuses the roll-forward."""
    write_events(config, 50)
    source = opened(config)
    cut = drained(source)[0]
    source.close()
    ranges = [changed(one) if one.records else one for one in cut.ranges]
    again = opened(config)
    with pytest.raises(RollForwardMismatch, match="the cut saw"):
        again.read(ranges)
    again.close()


@pytest.mark.integration
def test_a_log_that_ends_before_the_recorded_cut_is_noticed(config: Config) -> None:
    """Truncation shows as a lost position, not as an endless wait."""
    write_events(config, 50)
    source = opened(config)
    cut = drained(source)[-1]
    source.close()
    ranges = [replace(one, stop=one.stop + 5) if one.records else one for one in cut.ranges]
    again = opened(config)
    with pytest.raises(PositionLost, match="the log ends at"):
        again.read(ranges)
    again.close()


@pytest.mark.integration
def test_a_long_step_neither_loses_nor_doubles_records(config: Config) -> None:
    """The heartbeat lets go and polls; what waited, and what came meanwhile, is cut once."""
    small = config.model_copy(update={"cut": config.cut.model_copy(update={"max_records": 20})})
    write_events(small, 500)
    source = opened(small)
    first = first_cut(source)
    with source.heartbeat(first_s=1.0):
        write_events(small, 100, first=500)
        time.sleep(2.0)
    records = [*first.records, *(record for cut in drained(source) for record in cut.records)]
    source.close()
    assert values(records) == sorted(b"event %d" % i for i in range(600))


@pytest.mark.integration
def test_a_cut_is_tried_again_also_by_a_worker_that_starts_paused(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its predecessor died in the middle of this cut; it obeys commands first, and then needs these records."""
    monkeypatch.setattr("stream_mtl.kafka.source._PATIENCE_S", 60.0)
    write_events(config, 40)
    source = opened(config)
    ends = {place: end for place in source.positions if (end := source._reader.bounds(place)[1])}
    assert source.next_commands(0) is None
    assert len(source.cut_until(0, ends).records) == 40
    source.close()


@pytest.mark.integration
def test_a_backlog_is_read_by_time_and_not_one_partition_after_the_other(config: Config) -> None:
    """Small cuts, large fetches: every cut is the earliest records that are left, of all partitions.

    With a look ahead of a few cuts, or to the next record of every partition, some ran out of polled records within
    a cut while others went on: the watermark stood still, and then a single step had thousands of examples.
    """
    patient = config.cut.model_copy(update={"max_records": 200, "interval_ms": 120_000})
    small = config.model_copy(update={"cut": patient})
    writer, padding = EventWriter(config), b"x" * 1_500
    for i in range(6_000):
        writer.write(config.topics.events[0], f"u{i % 50}", b"%d %s" % (i, padding), START_MS + i)
    writer.write(config.topics.items, "i", b"the catalogue", START_MS)
    writer.flush()
    source = opened(small)
    times = [r.timestamp_ms or 0 for _ in range(20) for r in first_cut(source).records]
    source.close()
    assert min(times[:200]) == START_MS
    cuts = [times[n : n + 200] for n in range(0, len(times), 200)]
    assert all(max(earlier) <= min(later) for earlier, later in pairwise(cuts))


@pytest.mark.integration
def test_letting_go_after_every_cut_neither_loses_nor_doubles_records(config: Config) -> None:
    """Steps that are all long, down to the last few records of the log: each is cut once."""
    small = config.model_copy(update={"cut": config.cut.model_copy(update={"max_records": 60})})
    write_events(small, 3_000)
    source = opened(small)
    records: list[Record] = []
    while not source.at_end:
        cut = source.next_cut(1)
        if cut is not None:
            records += cut.records
            with source.heartbeat(first_s=0.0, every_s=0.001):
                time.sleep(0.005)
    source.close()
    assert values(records) == sorted(b"event %d" % i for i in range(3_000))


@pytest.mark.integration
def test_ranks_share_the_event_partitions_and_all_read_the_items(config: Config) -> None:
    """Two ranks: every event in one of them, items in both."""
    write_events(config, 100)
    write_events(config, 10, config.topics.items)
    seen = []
    for rank in range(2):
        shared = config.model_copy(
            update={"source": config.source.model_copy(update={"rank": rank, "ranks": 2})}
        )
        source = opened(shared)
        seen.append([record for cut in drained(source) for record in cut.records])
        source.close()
    items = [[one for one in own if one.topic == config.topics.items] for own in seen]
    assert [len(one) for one in items] == [10, 10]
    assert sum(map(len, seen)) == 100 + 20


@pytest.mark.integration
def test_a_worker_may_start_at_the_end(config: Config) -> None:
    """source.start = end sees only what is written afterwards."""
    write_events(config, 50)
    late = config.model_copy(update={"source": config.source.model_copy(update={"start": "end"})})
    source = opened(late)
    assert drained(source) == []
    write_events(config, 5, first=50)
    cut = None
    while cut is None:
        cut = source.next_cut(1)
    assert values(cut.records) == sorted(b"event %d" % i for i in range(50, 55))
    source.close()


@pytest.mark.integration
def test_positions_of_foreign_partitions_are_refused(config: Config) -> None:
    """A ledger of a topic with more partitions does not fit."""
    with pytest.raises(TopicChanged, match="begin anew"):
        opened(config, {(config.topics.events[0], 9): 3})


@pytest.mark.integration
def test_a_missing_topic_is_named(bootstrap: str, config_for: ConfigFactory) -> None:
    """It is the user's to create, or to let us create."""
    config = config_for(bootstrap)
    with pytest.raises(ConfigError, match=config.topics.items):
        opened(config)
    forbidden = config.model_copy(
        update={"topics": config.topics.model_copy(update={"create": False})}
    )
    with pytest.raises(ConfigError, match=r"topics\.create is off"):
        ensure_topics(forbidden)


def test_an_unreachable_broker_is_named(
    config_for: ConfigFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is in the message."""
    monkeypatch.setattr(topics_module, "CALL_S", 0.5)
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1; is the broker up"):
        opened(config_for("127.0.0.1:1"))


@pytest.mark.integration
def test_topics_for_more_brokers_than_there_are_end_in_a_clear_message(
    bootstrap: str, config_for: ConfigFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a moment in which the others may still come up."""
    monkeypatch.setattr(topics_module, "_GATHERING_S", 1.0)
    with pytest.raises(ConfigError, match=r"could not be created \(INVALID_REPLICATION_FACTOR"):
        ensure_topics(config_for(bootstrap, topics={"replication": 3}))


@pytest.mark.integration
def test_a_recreated_topic_is_noticed_at_the_start(config: Config) -> None:
    """Ids differ though the partition count is the same, and the remedy is named."""
    before = identities(config)
    recreate(config)
    with pytest.raises(TopicChanged, match="created anew"):
        check_identities(before, identities(config))


@pytest.mark.integration
def test_a_topic_recreated_while_running_stops_the_worker(config: Config) -> None:
    """Its old offsets mean other records, so going on would be silent loss."""
    write_events(config, 100)
    source = opened(config)
    drained(source)
    recreate(config)
    write_events(config, 50, first=1_000)
    with pytest.raises((TopicChanged, PositionLost)):
        cuts_for(source, 180.0)
    source.close()


def recreate(config: Config) -> None:
    topic = config.topics.events[0]
    admin = AdminClient({"bootstrap.servers": config.kafka.bootstrap})
    before = identities(config)[topic].id
    admin.delete_topics([topic])[topic].result()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(ConfigError):  # still being deleted
            ensure_topics(config, retention_ms=-1)
            if identities(config)[topic].id != before:
                return
        time.sleep(0.2)
    pytest.fail("the broker did not recreate the topic")


@pytest.mark.integration
def test_a_broker_restart_neither_loses_nor_doubles_records(
    own_kafka: KafkaServer, config_for: ConfigFactory
) -> None:
    """kill -9 and restart between two cuts: the source waits and goes on where it was."""
    config = config_for(own_kafka.bootstrap, cut={"max_records": 50})
    ensure_topics(config, retention_ms=-1)
    write_events(config, 200)
    source = opened(config)
    first = first_cut(source)
    own_kafka.kill()
    waiting = source.next_cut(2)
    own_kafka.start()
    write_events(config, 100, first=200)
    records = [*first.records, *(waiting.records if waiting else ())]
    deadline = time.monotonic() + 60
    while len(records) < 300 and time.monotonic() < deadline:
        cut = source.next_cut(3)
        records += cut.records if cut else ()
    source.close()
    assert values(records) == sorted(b"event %d" % i for i in range(300))


@pytest.mark.integration
def test_a_reader_at_the_end_does_not_take_an_absent_broker_for_missing_topics(
    own_kafka: KafkaServer, config_for: ConfigFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is waited for, the second ended the worker as a wrong configuration."""
    config = config_for(own_kafka.bootstrap)
    ensure_topics(config, retention_ms=-1)
    write_events(config, 50)
    source = opened(config)
    drained(source)
    own_kafka.kill()
    monkeypatch.setattr(bounds_module, "CALL_S", 1.0)
    with pytest.raises(BrokerUnavailable, match=r"locating .*is the broker up"):
        source._reader.confirms_end()
    source.close()


def test_a_refused_fetch_position_is_looked_up_and_read_on(config_for: ConfigFactory) -> None:
    """The broker answers out-of-range once although the log is whole: nothing is lost or doubled."""
    draft = config_for("unused")
    with EmbeddedBroker({name: one.partitions for name, one in plan(draft).items()}) as broker:
        if not broker.full:
            pytest.skip("no fault hooks in this build of librdkafka")
        kafka = draft.kafka.model_copy(update={"bootstrap": broker.bootstrap})
        config = draft.model_copy(update={"kafka": kafka})
        write_events(config, 100)
        source = opened(config)
        broker.push_errors(FETCH, [OFFSET_OUT_OF_RANGE] * 2)
        records = [record for cut in drained(source) for record in cut.records]
        source.close()
    assert values(records) == sorted(b"event %d" % i for i in range(100))
