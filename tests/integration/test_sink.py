"""The transactional sink against a real broker: once, whole, by one owner, whatever happens in between."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from stream_mtl.config import Config
from stream_mtl.errors import BrokerUnavailable, CommitIndefinite, ConfigError, Fenced
from stream_mtl.failpoints import unarmed
from stream_mtl.kafka import sink as sink_module
from stream_mtl.kafka.calls import CALLS
from stream_mtl.kafka.ledger_log import committed_offsets, last_record, read_ledger
from stream_mtl.kafka.ownership import Place
from stream_mtl.kafka.publication import Claim, Publication, noted_cut
from stream_mtl.kafka.server import KafkaServer
from stream_mtl.kafka.settings import (
    consumer_settings,
    open_consumer,
    open_producer,
    transactional_settings,
)
from stream_mtl.kafka.sink import TransactionalSink
from stream_mtl.kafka.topics import ensure_topics
from tests.publications import START_MS, publication, read_published, settle
from workers.doctor_kafka import examine_broker
from workers.ports import kafka_ports

pytestmark = pytest.mark.integration
ConfigFactory = Callable[..., Config]


class Crash(Exception):
    """Stands for the end of the process at a failpoint."""


def crash_at(name: str, cut: int | None = None) -> Callable[[str], None]:
    def failpoint(here: str) -> None:
        if here == name:
            raise Crash(name)

    return failpoint


@pytest.fixture
def config(bootstrap: str, config_for: ConfigFactory) -> Config:
    made = config_for(bootstrap)
    ensure_topics(made, retention_ms=-1)
    return made


@pytest.fixture
def positions(config: Config) -> dict[Place, int]:
    return {(config.topics.events[0], number): 10 * number for number in range(4)}


@pytest.fixture
def sink(config: Config) -> Iterator[TransactionalSink]:
    one = TransactionalSink(config, incarnation="first")
    one.open()
    yield one
    one.close()


def ledger(config: Config) -> list[bytes]:
    settle(config, config.topics.ledger)
    return [record for _, record in read_ledger(config)]


def test_offset_notes_survive_the_transaction(
    config: Config, sink: TransactionalSink, positions: dict[Place, int]
) -> None:
    """Offsets of all owned partitions come back with cut number and incarnation."""
    sink.commit(publication(12, positions))
    found = committed_offsets(config)
    assert {place: offset for place, (offset, _) in found.items()} == positions
    assert {note for _, note in found.values()} == {"stream-mtl/1 cut=12 by=first"}
    assert {noted_cut(note) for _, note in found.values()} == {12}


def test_an_idle_job_refreshes_its_offsets_without_a_ledger_record(
    config: Config, sink: TransactionalSink, positions: dict[Place, int]
) -> None:
    """Offsets are committed again, nothing else becomes visible."""
    sink.commit(publication(1, positions))
    moved = {place: at + 1 for place, at in positions.items()}
    sink.refresh(1, moved)
    assert {place: offset for place, (offset, _) in committed_offsets(config).items()} == moved
    assert ledger(config) == [b"ledger 1 "]


def test_a_newer_worker_fences_the_older(
    config: Config, sink: TransactionalSink, positions: dict[Place, int]
) -> None:
    """The older one's next commit raises Fenced, and nothing of it is visible."""
    sink.commit(publication(1, positions))
    newer = TransactionalSink(config, incarnation="second")
    newer.open()
    with pytest.raises(Fenced, match="another worker"):
        sink.commit(publication(2, positions, note="older"))
    with pytest.raises(Fenced, match="fenced before"):
        sink.commit(publication(2, positions, note="older, once more"))
    newer.commit(publication(2, positions, note="newer"))
    newer.close()
    assert ledger(config) == [b"ledger 1 ", b"ledger 2 newer"]
    assert len(read_published(config)) == 6


@pytest.mark.parametrize("where", ["commit.begin", "commit.produced", "commit.offsets"])
def test_what_a_crash_left_open_stays_invisible(
    config: Config, positions: dict[Place, int], where: str
) -> None:
    """A crash before the commit leaves no score, dead letter, ledger record or offset; the cut goes out once."""
    one = publication(1, positions)
    first = TransactionalSink(config, failpoint=crash_at(where))
    first.open()
    with pytest.raises(Crash):
        first.commit(one)
    second = TransactionalSink(config)
    second.open()
    assert (ledger(config), committed_offsets(config)) == ([], {})
    second.commit(one)
    second.close()
    first.close()
    assert ledger(config) == [one.ledger]
    assert len(read_published(config)) == len(one.outputs)
    assert len(read_published(config, config.topics.dlq)) == 1


def test_what_a_crash_left_open_keeps_no_start_waiting(
    config: Config, positions: dict[Place, int]
) -> None:
    """Who holds the job is known at once, and not when the broker has ended the dead worker's transaction: with the
    transaction's time-out above the client's patience that was a refused start.
    """
    long = config.kafka.model_copy(update={"transaction_timeout_ms": 600_000})
    config = config.model_copy(update={"kafka": long})
    dead = TransactionalSink(config, "dead", failpoint=crash_at("commit.offsets"))
    dead.open()
    dead.refresh(1, positions, Claim("somebody", START_MS))
    with pytest.raises(Crash):
        dead.commit(publication(2, positions))
    ports = kafka_ports(config, "next", lambda: False, unarmed)
    assert {claim.instance for claim in ports.claims()} == {"somebody"}
    ports.source.close()
    dead.close()


@pytest.mark.parametrize("where", ["commit.sent", "commit.acknowledged"])
def test_a_crash_after_the_commit_leaves_the_whole_cut(
    config: Config, positions: dict[Place, int], where: str
) -> None:
    """The next start finds the cut in the ledger, with offsets and scores."""
    one = publication(1, positions)
    first = TransactionalSink(config, failpoint=crash_at(where))
    first.open()
    with pytest.raises(Crash):
        first.commit(one)
    first.close()
    second = TransactionalSink(config)
    second.open()
    assert ledger(config) == [one.ledger]
    assert len(read_published(config)) == len(one.outputs)
    assert committed_offsets(config).keys() == positions.keys()
    second.close()


class Faulty:
    """A producer whose commit fails in a chosen way, once; everything else goes to the real one."""

    def __init__(self, producer: Producer, commit: Callable[[Producer], None]) -> None:
        self._real, self._commit = producer, commit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def commit_transaction(self, timeout: float = -1) -> None:
        self._commit(self._real)


def _error(**flags: bool) -> KafkaException:
    return KafkaException(KafkaError(KafkaError._TIMED_OUT, "made up", **flags))


def committed_but_unanswered(producer: Producer) -> None:
    producer.commit_transaction(-1)
    raise _error()


def never_sent(producer: Producer) -> None:
    raise _error()


def must_abort(producer: Producer) -> None:
    raise _error(txn_requires_abort=True)


def naive_commit(producer: Any, one: Publication, config: Config) -> None:
    """What many do: when the answer is missing, send again with the same producer."""
    for _ in range(2):
        producer.begin_transaction()
        producer.produce(config.topics.ledger, one.ledger)
        try:
            producer.commit_transaction(-1)
        except KafkaException:
            producer._commit = lambda real: real.commit_transaction(-1)
            continue
        return


def test_an_aborted_cut_is_sent_again_with_the_same_content(
    config: Config, sink: TransactionalSink, positions: dict[Place, int]
) -> None:
    """Subscribers see it once; the commit tells that it was aborted before.

    By another producer: with 24 % of the packets lost for ten minutes, the same one committed a cut without its
    scores. They had reached the broker in the aborted transaction, unanswered; sent again under the same
    sequence numbers they were taken for duplicates.
    """
    sink._producer = Faulty(sink._producer, must_abort)  # type: ignore[assignment,arg-type]
    original, tries = sink._producer, []

    def once(real: Producer) -> None:
        tries.append(1)
        if len(tries) == 1:
            must_abort(real)
        real.commit_transaction(-1)

    original._commit = once  # type: ignore[attr-defined]
    committed = sink.commit(publication(1, positions))
    assert (committed.aborted, committed.indefinite, committed.recreations) == (1, 0, ("aborted",))
    assert ledger(config) == [b"ledger 1 "]
    assert len(read_published(config)) == 3


@pytest.mark.parametrize("fault", [committed_but_unanswered, never_sent])
def test_an_unknown_outcome_is_settled_by_the_ledger(
    config: Config,
    sink: TransactionalSink,
    positions: dict[Place, int],
    fault: Callable[[Producer], None],
) -> None:
    """Whether the lost answer was a yes or a no, the cut is visible exactly once, and a new producer goes on."""
    sink.commit(publication(1, positions))
    sink._producer = Faulty(sink._producer, fault)  # type: ignore[assignment,arg-type]
    committed = sink.commit(publication(2, positions))
    assert committed.indefinite >= 1
    assert committed.recreations[0] == "indefinite"
    assert (committed.ledger_offset, b"ledger 2 ") == last_record(config)
    sink.commit(publication(3, positions))
    assert ledger(config) == [b"ledger 1 ", b"ledger 2 ", b"ledger 3 "]
    assert len(read_published(config)) == 9


class Standing(Faulty):
    """A producer whose offsets are never answered, as while the group's coordinator is away (librdkafka 5456)."""

    def send_offsets_to_transaction(self, *arguments: Any) -> None:
        threading.Event().wait()


def test_a_call_that_never_ends_costs_its_producer_and_nothing_more(
    bootstrap: str, config_for: ConfigFactory
) -> None:
    """The client ignores its time-out there. The cut is there once, by another producer."""
    config = config_for(bootstrap, kafka={"transaction_timeout_ms": 5_000})
    ensure_topics(config, retention_ms=-1)
    positions = {(config.topics.events[0], 0): 0}
    sink = TransactionalSink(config)
    sink.open()
    sink._producer = Standing(sink._producer, never_sent)  # type: ignore[assignment,arg-type]
    committed = sink.commit(publication(1, positions))
    assert (committed.indefinite, committed.recreations) == (1, ("indefinite",))
    sink.commit(publication(2, positions))
    sink.close()
    assert ledger(config) == [b"ledger 1 ", b"ledger 2 "]
    assert len(read_published(config)) == 6


def test_a_commit_that_fails_again_and_again_says_why(
    config: Config,
    sink: TransactionalSink,
    positions: dict[Place, int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A supervisor starts the worker again and again; without the cause a person would have nothing to go by."""
    opened = sink_module.open_producer
    monkeypatch.setattr(
        sink_module, "open_producer", lambda *given: Faulty(opened(*given), never_sent)
    )
    sink._producer = Faulty(sink._producer, never_sent)  # type: ignore[assignment,arg-type]
    with pytest.raises(
        CommitIndefinite, match=r"8 attempts failed .* the last one: indefinite: _TIMED_OUT"
    ):
        sink.commit(publication(1, positions))
    assert "cut 1, attempt 1: indefinite: _TIMED_OUT: made up" in caplog.messages


def test_a_transaction_longer_than_the_broker_allows_is_a_configuration_fault(
    bootstrap: str, config_for: ConfigFactory
) -> None:
    """The client will not ask a second time; it was waited for without end."""
    config = config_for(bootstrap, kafka={"transaction_timeout_ms": 1_000_000})
    sink = TransactionalSink(config)
    with pytest.raises(
        ConfigError, match=r"INVALID_TRANSACTION_TIMEOUT.*transaction\.max\.timeout\.ms"
    ):
        sink.open()
    sink.close()


class Ended(Faulty):
    """A producer that tells on the first poll what ended it since its last cut."""

    def __init__(self, producer: Producer, code: int) -> None:
        super().__init__(producer, never_sent)
        self._code = code

    def poll(self, timeout: float = -1) -> int:
        raise KafkaException(KafkaError(self._code, "made up", fatal=True))


def test_a_right_lost_between_two_cuts_is_named(
    config: Config, sink: TransactionalSink, positions: dict[Place, int]
) -> None:
    """The client asks for its coordinator by itself, and says at any call that it may not."""
    denied = KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    sink._producer = Ended(sink._producer, denied)  # type: ignore[assignment,arg-type]
    with pytest.raises(ConfigError, match="no right to Write on transactional-id"):
        sink.commit(publication(1, positions))


def test_a_producer_that_ended_between_two_cuts_is_replaced(
    config: Config, sink: TransactionalSink, positions: dict[Place, int]
) -> None:
    """Whatever else has ended it: nothing was under way."""
    sink._producer = Ended(sink._producer, KafkaError._STATE)  # type: ignore[assignment,arg-type]
    assert sink.commit(publication(1, positions)).recreations == ("other",)
    assert ledger(config) == [b"ledger 1 "]


def test_offsets_held_back_by_a_transaction_that_does_not_end_are_told_from_a_broker_that_is_away(
    config: Config, sink: TransactionalSink, positions: dict[Place, int]
) -> None:
    """As after a broker that lost the markers: all else answers, so "is it up?" would send an operator the wrong way."""
    sink.commit(publication(1, positions))
    settings = {**transactional_settings(config), "transactional.id": f"{config.app}.other"}
    producer = open_producer(settings)
    producer.init_transactions()
    producer.begin_transaction()
    consumer = open_consumer(consumer_settings(config))
    group = consumer.consumer_group_metadata()
    consumer.close()
    producer.send_offsets_to_transaction([TopicPartition(*p, 0) for p in positions], group)
    with pytest.raises(BrokerUnavailable, match=r"(?s)answers, and keeps those of .* find-hanging"):
        committed_offsets(config, timeout_s=1.0)
    producer.abort_transaction()
    found = committed_offsets(config)
    assert {place: offset for place, (offset, _) in found.items()} == positions


def test_nothing_is_committed_behind_a_transaction_that_hides_the_end_of_the_ledger(
    config: Config, sink: TransactionalSink, positions: dict[Place, int]
) -> None:
    """A start does not see what is hidden there: it would make it once more, and one day both would show."""
    sink.commit(publication(1, positions))
    sink.close()
    settings = {**transactional_settings(config), "transactional.id": f"{config.app}.other"}
    producer = open_producer(settings)
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(config.topics.ledger, b"of nobody", partition=0)
    producer.flush()
    with pytest.raises(BrokerUnavailable, match=r"hidden by a transaction .* find-hanging"):
        TransactionalSink(config, patience_s=1.0).open()
    assert {one.name: one.status for one in examine_broker(config)}["outputs"] == "fail"
    producer.abort_transaction()
    assert {one.name: one.status for one in examine_broker(config)}["outputs"] == "ok"
    again = TransactionalSink(config)
    again.open()
    again.commit(publication(2, positions))
    again.close()
    assert ledger(config) == [b"ledger 1 ", b"ledger 2 "]


def taken_over(
    config: Config, positions: dict[Place, int], also_commits: bool
) -> tuple[TransactionalSink, TransactionalSink]:
    """A sink that committed cut 1, will hear of a time-out next, and has a successor: one with a claim, or a cut."""
    first = TransactionalSink(config, incarnation="first")
    first.open()
    first.commit(publication(1, positions))
    heir = TransactionalSink(config, incarnation="heir")
    heir.open()
    heir.refresh(1, positions, Claim("heir", START_MS))
    committed_offsets(
        config
    )  # waits until the claim can be seen: a commit is answered a moment earlier
    if also_commits:
        heir.commit(publication(2, positions))
    first._producer = Faulty(first._producer, never_sent)  # type: ignore[assignment,arg-type]
    first._producer.begin_transaction = lambda: None  # type: ignore[method-assign,union-attr]
    first._producer.send_offsets_to_transaction = lambda *_: None  # type: ignore[method-assign,union-attr]
    first._producer.flush = lambda *_: 0  # type: ignore[method-assign,union-attr]
    return first, heir


def test_a_zombie_that_hears_of_a_time_out_first_does_not_fence_its_successor(
    config: Config, positions: dict[Place, int]
) -> None:
    """To settle the outcome it would start another producer; the notes say that the job is no longer its own."""
    first, heir = taken_over(config, positions, also_commits=False)
    with pytest.raises(Fenced, match="another worker"):
        first.commit(publication(2, positions, note="of a zombie"))
    heir.commit(publication(2, positions))  # is fenced by the naive variant
    heir.close()
    assert ledger(config) == [b"ledger 1 ", b"ledger 2 "]


class Late(Faulty):
    """A producer whose start gets no answer: the network holds the request back until `arrive`."""

    def init_transactions(self, timeout: float = -1) -> None:
        raise _error()

    def purge(self, blocking: bool = True) -> None:
        """It is given up, but the request is on its way."""

    close = purge

    def arrive(self) -> None:
        self._real.init_transactions(60.0)


@pytest.fixture
def late(
    config: Config,
    positions: dict[Place, int],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[TransactionalSink, Late]]:
    """A sink that committed cut 1, then lost its connection, whose first attempt to start anew is still under way."""
    sink = TransactionalSink(config, incarnation="first")
    sink.open()
    sink.commit(publication(1, positions))
    given: list[Late] = []

    def first_is_late(*arguments: Any) -> Producer:
        producer = open_producer(*arguments)
        if not given:
            given.append(Late(producer, never_sent))
            return given[0]  # type: ignore[return-value]
        return producer

    monkeypatch.setattr("stream_mtl.kafka.sink.open_producer", first_is_late)
    sink._tripwire.reason = "disconnect"
    sink.commit(publication(2, positions))
    yield sink, given[0]
    sink.close()


def test_a_start_of_its_own_that_arrives_late_does_not_end_a_worker(
    late: tuple[TransactionalSink, Late], config: Config, positions: dict[Place, int]
) -> None:
    """It fences like another worker; but nobody has claimed the job. Each can do so once."""
    sink, straggler = late
    straggler.arrive()
    committed = sink.commit(publication(3, positions))
    assert (committed.indefinite, committed.recreations) == (1, ("indefinite",))
    assert ledger(config) == [b"ledger 1 ", b"ledger 2 ", b"ledger 3 "]
    TransactionalSink(config, incarnation="heir").open()
    with pytest.raises(Fenced):
        sink.commit(publication(4, positions))


def test_a_successor_is_yielded_to_although_a_start_is_still_under_way(
    late: tuple[TransactionalSink, Late], config: Config, positions: dict[Place, int]
) -> None:
    """It has time to claim the job before the notes are read."""
    sink, _ = late
    heir = TransactionalSink(config, incarnation="heir")
    heir.open()
    heir.refresh(2, positions, Claim("heir", START_MS))
    with pytest.raises(Fenced):
        sink.commit(publication(3, positions))
    heir.commit(publication(3, positions))
    heir.close()
    assert ledger(config) == [b"ledger 1 ", b"ledger 2 ", b"ledger 3 "]


def test_a_zombie_that_takes_the_job_back_does_not_double_a_cut(
    config: Config, positions: dict[Place, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, but the successor came between the look at the notes and the new producer: the ledger tells."""
    first, heir = taken_over(config, positions, also_commits=True)
    monkeypatch.setattr(first._tenure, "over", lambda: False)
    with pytest.raises(Fenced, match="another worker"):
        first.commit(publication(2, positions, note="of a zombie"))
    heir.close()
    assert ledger(config) == [b"ledger 1 ", b"ledger 2 "]


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (committed_but_unanswered, ["invoked", "indeterminate"]),
        (must_abort, ["invoked", "failed", "invoked", "ok"]),
    ],
)
def test_the_diary_of_calls_says_what_the_client_was_told(
    config: Config, positions: dict[Place, int], fault: Callable[[Producer], None], told: list[str]
) -> None:
    """A commit without an answer is indeterminate and not repeated; one to be aborted has surely failed."""
    calls: list[tuple[str, str, int]] = []
    sink = TransactionalSink(config, record=lambda *call: calls.append(call))
    sink.open()
    real, tries = sink._producer, []

    def once(producer: Producer) -> None:
        tries.append(1)
        if len(tries) == 1:
            fault(producer)
        producer.commit_transaction(-1)

    sink._producer = Faulty(real, once)  # type: ignore[assignment,arg-type]
    sink.commit(publication(7, positions))
    sink.close()
    assert [outcome for call, outcome, cut in calls if (call, cut) == ("commit", 7)][
        : len(told)
    ] == told
    assert [call for call, outcome, cut in calls if cut == 7][:2] == ["begin", "begin"]
    assert {call for call, _, _ in calls} <= set(CALLS)


def test_sending_again_with_the_same_producer_would_double_the_cut(
    config: Config, sink: TransactionalSink, positions: dict[Place, int]
) -> None:
    """The guard above has power: the naive way writes the ledger record twice."""
    faulty = Faulty(sink._producer, committed_but_unanswered)  # type: ignore[arg-type]
    one = publication(1, positions)
    naive_commit(faulty, one, config)
    assert ledger(config) == [one.ledger, one.ledger]


def test_a_suspicious_producer_is_replaced_before_the_next_cut(
    config: Config, sink: TransactionalSink, positions: dict[Place, int]
) -> None:
    """After a lost connection the last commit stands, and the next one comes from a new producer."""
    sink.commit(publication(1, positions))
    sink._tripwire._on_error(KafkaError(KafkaError._TRANSPORT))
    assert sink.commit(publication(2, positions)).recreations == ("disconnect",)
    assert sink.commit(publication(3, positions)).recreations == ()
    assert ledger(config) == [b"ledger 1 ", b"ledger 2 ", b"ledger 3 "]


def test_a_record_that_the_broker_will_never_take_is_a_configuration_fault(
    config: Config, sink: TransactionalSink, positions: dict[Place, int]
) -> None:
    """It names the remedy instead of sending the same cut for ever, and nothing is visible."""
    big = publication(1, positions)
    big.outputs.append(big.outputs[0].__class__("user:big", bytes(2_100_000), 0))  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"max\.message\.bytes"):
        sink.commit(big)
    assert (ledger(config), read_published(config)) == ([], [])


def test_a_broker_that_hangs_during_a_commit_delays_the_cut_and_nothing_more(
    own_kafka: KafkaServer, config_for: ConfigFactory
) -> None:
    """The broker stands still past the transaction's time-out; afterwards each cut is there once."""
    config = config_for(own_kafka.bootstrap, kafka={"transaction_timeout_ms": 5_000})
    ensure_topics(config, retention_ms=-1)
    positions = {(config.topics.events[0], 0): 0}
    assert own_kafka.pid is not None
    pid, hung = own_kafka.pid, []

    def hang(name: str) -> None:
        if name == "commit.offsets" and not hung:
            hung.append(1)
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(12.0, os.kill, (pid, signal.SIGCONT)).start()

    sink = TransactionalSink(config, failpoint=hang)
    sink.open()
    committed = sink.commit(publication(1, positions))
    assert committed.indefinite + committed.aborted >= 1  # by the call that met the standing broker
    sink.commit(publication(2, positions))
    sink.close()
    assert ledger(config) == [b"ledger 1 ", b"ledger 2 "]
    assert len(read_published(config)) == 6


def test_a_killed_broker_delays_the_cut_and_nothing_more(
    own_kafka: KafkaServer, config_for: ConfigFactory
) -> None:
    """kill -9 of the broker inside a transaction, restart: every cut is there once."""
    config = config_for(own_kafka.bootstrap, kafka={"transaction_timeout_ms": 5_000})
    ensure_topics(config, retention_ms=-1)
    positions = {(config.topics.events[0], 0): 0}
    killed: list[threading.Thread] = []

    def kill(name: str) -> None:
        if name == "commit.produced" and not killed:
            own_kafka.kill()
            killed.append(threading.Thread(target=own_kafka.start))
            killed[0].start()

    sink = TransactionalSink(config, failpoint=kill)
    sink.open()
    sink.commit(publication(1, positions))
    sink.commit(publication(2, positions))
    sink.close()
    killed[0].join()
    assert ledger(config) == [b"ledger 1 ", b"ledger 2 "]
    assert len(read_published(config)) == 6


def test_an_absent_broker_is_named_after_patience(config_for: ConfigFactory) -> None:
    """Opening against a closed port ends with the address and what to look at."""
    sink = TransactionalSink(config_for("127.0.0.1:1"), patience_s=0.1)
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1.*is the broker up"):
        sink.open()


def test_stopping_while_the_outcome_is_open_says_so(
    own_kafka: KafkaServer, config_for: ConfigFactory
) -> None:
    """A stop ends the wait for an absent broker with CommitIndefinite; the next start asks the ledger."""
    config = config_for(own_kafka.bootstrap, kafka={"transaction_timeout_ms": 2_000})
    ensure_topics(config, retention_ms=-1)

    def kill(name: str) -> None:
        if name == "commit.offsets":
            own_kafka.kill()

    stopping = threading.Event()
    sink = TransactionalSink(config, failpoint=kill, stop=stopping.is_set)
    sink.open()
    timer = threading.Timer(1.0, stopping.set)
    timer.start()
    with pytest.raises(CommitIndefinite, match="next start"):
        sink.commit(publication(1, {(config.topics.events[0], 0): 0}))
    sink.close()
