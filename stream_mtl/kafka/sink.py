"""The transactional sink: one transaction carries scores, dead letters, ledger record and offsets of a cut.

Steps (the first two are the caller's; no transaction is open during them):

1. freeze the cut
2. decode, join, update, score
3. begin
4. produce scores, dead letters and exactly one ledger record
5. send the offsets of all owned partitions
6. commit
7. only when confirmed: advance

Nothing outside depends on a cut before step 6, so one that did not commit is sent again with the same
content. When a call fails:

======================================  ===========================================================
retriable                               the same call again, until one deadline
requires abort                          settle: drop the producer, start another with the same id (it ends or
                                        aborts what was pending), read the ledger's last record: it is this cut:
                                        done; else send again
time-out, transport, unclassified       outcome unknown: settle
no answer long past its time-out        settle; the producer is left to its call, not closed
a record is not there, or nobody knows  settle, before the commit is asked for: see `receipts`
fatal, fenced                           `Fenced`: another worker owns the job; touch nothing any more. But a
                                        start of ours that got no answer may have fenced us by arriving late,
                                        when a network heals: then settle, and the notes decide
======================================  ===========================================================

A cut is never sent again by the producer that failed, not even after an orderly abort: it would give its records
numbers that the broker may have seen in what was aborted, and the broker would take them for duplicates and leave
them out without a word.

A producer that is replaced in the middle of a run must not fence a successor: see `tenure`. It is asked before,
and after (the successor may have come in between).
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from confluent_kafka import KafkaError, KafkaException, Producer

from stream_mtl.config import Config
from stream_mtl.errors import BrokerUnavailable, CommitIndefinite, ConfigError, Fenced
from stream_mtl.failpoints import Failpoint, unarmed
from stream_mtl.kafka.calls import Outcome, Recorder, unrecorded
from stream_mtl.kafka.faults import CALL_S, error_of, is_denied, is_fenced
from stream_mtl.kafka.ownership import Place
from stream_mtl.kafka.publication import (
    Claim,
    Committed,
    Publication,
    Wire,
    ledger_wire,
    offsets,
    published,
)
from stream_mtl.kafka.receipts import Receipts
from stream_mtl.kafka.rights import explain_denial, require
from stream_mtl.kafka.settings import (
    consumer_settings,
    open_consumer,
    open_producer,
    transactional_id,
    transactional_settings,
)
from stream_mtl.kafka.tenure import Overtaken, Tenure
from stream_mtl.kafka.tripwire import Tripwire
from stream_mtl.kafka.unanswered import Unanswered, answer_within

PATIENCE_S = 600.0  # how long an open outcome waits for the broker to come back
_ATTEMPTS = 8  # of one cut, before we give up: the fault is then not a passing one
_CLAIM_S = 2.0  # in which a successor, once it has fenced us, has said that the job is its own
_LATE_S = 120.0  # after which a request without an answer is lost for good
_CLOSE_S = 2.0  # for a producer that is given up
_OVERTIME_S = 2.0  # by which the client may answer later than it was given
_NO_CUT = -1  # in the diary: a call that is of no cut
_ABORTED = "aborted"  # the client says that nothing of it will ever be seen
_UNPLACED = "unplaced"  # not committed: it would have been seen without some of its records
_INDEFINITE = "indefinite"
_REFUSED = {
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError.POLICY_VIOLATION,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
}
_LOG = logging.getLogger(__name__)


class _Unsettled(Exception):
    """The transaction did not end well. Only the ledger can tell how, and only a new producer may ask."""

    def __init__(self, how: str, why: str = "no answer") -> None:
        super().__init__(f"{how}: {why}")
        self.how = how  # one of _ABORTED, _UNPLACED, _INDEFINITE


class TransactionalSink:
    """Commits cuts exactly once. `stop` is asked while waiting for a broker that is away."""

    delivery = "exactly_once"

    def __init__(
        self,
        config: Config,
        incarnation: str = "",
        failpoint: Failpoint = unarmed,
        stop: Callable[[], bool] = lambda: False,
        patience_s: float = PATIENCE_S,
        record: Recorder = unrecorded,
    ) -> None:
        self._config = config
        self._incarnation = incarnation
        self._failpoint = failpoint
        self._stop = stop
        self._patience_s = patience_s
        self._record = record
        self._timeout_s = config.kafka.transaction_timeout_ms / 1_000
        self._producer: Producer | None = None
        self._tripwire = Tripwire()
        self._group: Any = None
        self._recreations: list[str] = []
        self._fenced = False
        # When starts of producers were given up without an answer: they may yet arrive, and fence.
        self._unanswered: list[float] = []
        self._tenure = Tenure(config, incarnation, stop, patience_s)

    def open(self) -> None:
        """Create the producer: ends what an earlier one left pending, and fences it. Then read the ledger.

        Raises BrokerUnavailable after the patience or on `stop`, Fenced, ConfigError.
        """
        consumer = open_consumer(consumer_settings(self._config))
        self._group = consumer.consumer_group_metadata()
        consumer.close()
        self._renew()
        self._tenure.begin()

    def commit(self, publication: Publication) -> Committed:
        """Make the cut visible, once; returns only when that is confirmed.

        Raises Fenced; CommitIndefinite when the outcome is still unknown at the end of patience, on `stop`,
        or after too many attempts; ConfigError when the broker refuses a record for good, or a right is missing.
        """
        started = time.monotonic()
        number = publication.cut.number
        failed, last = Counter[str](), ""
        self._ready(number)
        while failed.total() < _ATTEMPTS:
            began = time.monotonic()
            try:
                offset = self._attempt(publication)
            except _Unsettled as fault:
                failed[fault.how] += 1
                last = str(fault)
                _LOG.warning("cut %d, attempt %d: %s", number, failed.total(), last)
                landed = self._settled(fault.how, number, publication.ledger)
                if landed is None:
                    continue
                offset = landed
            self._tenure.committed(offset)
            recreations, self._recreations = tuple(self._recreations), []
            ended = time.monotonic()
            return Committed(
                number,
                offset,
                ended - started,
                ended - began,
                failed[_ABORTED] + failed[_UNPLACED],
                failed[_INDEFINITE],
                recreations,
            )
        # Refused while offsets are sent, a record makes the client ask for an abort and not say why.
        with contextlib.suppress(BrokerUnavailable):
            require(self._config, f"committing cut {number}")
        raise CommitIndefinite(
            f"cut {number}: {_ATTEMPTS} attempts failed ({failed.total() - failed[_INDEFINITE]} aborted,"
            f" {failed[_INDEFINITE]} with unknown outcome; the last one: {last}) at {self._config.kafka.bootstrap}; the"
            " next start reads the ledger and goes on"
        )

    def refresh(
        self, cut_number: int, positions: Mapping[Place, int], claim: Claim | None = None
    ) -> None:
        """Commit offsets alone, for an idle job: at least hourly, or they and the transactional id expire.

        With `claim` it also tells other instances that the job is held. Raises Fenced where it is no longer ours,
        BrokerUnavailable at the end of patience or on `stop`.
        """
        self._ready(cut_number)
        try:
            self._one(
                lambda producer: self._send_offsets(
                    producer, offsets(positions, cut_number, self._incarnation, claim), _NO_CUT
                ),
                Receipts(),
                cut_number,
                _NO_CUT,
            )
        except _Unsettled as fault:
            # not again: the next one is an hour away at most, and they expire after days
            self._replace(fault.how, cut_number)

    def close(self) -> None:
        """Let go of the producer; nothing is sent any more."""
        self._drop()

    # -- one transaction -------------------------------------------------------------------------

    def _attempt(self, publication: Publication) -> int:
        """Steps 3 to 6 once; the ledger record's offset."""
        receipts = Receipts()

        def fill(producer: Producer) -> None:
            number = publication.cut.number
            self._failpoint("commit.producing")
            self._record("produce", Outcome.INVOKED, number)
            self._produce(producer, publication, receipts)  # 4
            self._failpoint("commit.produced")
            self._failpoint("commit.sending_offsets")
            notes = offsets(publication.positions, number, self._incarnation)
            self._send_offsets(producer, notes, number)  # 5
            self._failpoint("commit.offsets")

        self._one(fill, receipts, publication.cut.number, publication.cut.number)
        return receipts.offset(self._config.topics.ledger)

    def _one(
        self, fill: Callable[[Producer], None], receipts: Receipts, number: int, noted: int
    ) -> None:
        """A transaction around `fill`, with the table of failures; `noted` is the cut in the diary."""
        producer = self._producer
        assert producer is not None, "open() comes first"
        deadline = time.monotonic() + self._timeout_s
        try:
            self._failpoint("commit.beginning")
            self._call("begin", noted, producer.begin_transaction, deadline)  # 3
            self._failpoint("commit.begin")
            fill(producer)
            self._failpoint("commit.flushing")
            self._flush(producer, receipts, number, noted, deadline)
            self._failpoint("commit.flushed")
            sent = time.monotonic()
            self._failpoint("commit.sending")
            # A finite time: with -1 the client waits for an absent broker without end. Its warning that a
            # time-out leaves the producer in an unclear state does not matter: we drop it then.
            self._call(
                "commit", noted, lambda: producer.commit_transaction(_left_s(deadline)), deadline
            )  # 6
            self._failpoint("commit.sent")
            if time.monotonic() - sent > self._timeout_s / 2:
                self._tripwire.slow()
            producer.poll(0)
            self._failpoint("commit.acknowledged")
        except KafkaException as error:
            self._explain(error_of(error), number)

    def _flush(
        self, producer: Producer, receipts: Receipts, number: int, noted: int, deadline: float
    ) -> None:
        """The commit would flush too, but then nobody could look at the receipts before it. A cut that would become
        visible without some of its records is not committed.
        """
        left: list[int] = []
        self._call("flush", noted, lambda: left.append(producer.flush(_left_s(deadline))), deadline)
        if left[-1]:
            raise _Unsettled(_ABORTED, f"{left[-1]} records not taken in time")
        if errors := receipts.errors():
            # SystemError: of a producer that is being fenced, see `receipts`.
            with contextlib.suppress(SystemError):
                self._raise_for_good(errors[0], number)
        if unplaced := receipts.unplaced():
            _LOG.warning(
                "cut %d: %d records have no place at the broker, though the client took them for delivered; the cut"
                " is sent again",
                number, unplaced,
            )  # fmt: skip
            raise _Unsettled(_UNPLACED, f"{unplaced} records have no offset")

    def _produce(self, producer: Producer, publication: Publication, receipts: Receipts) -> None:
        for wire in (
            *published(publication, self._config),
            ledger_wire(publication, self._config),
        ):
            send(producer, wire, receipts)

    def _send_offsets(self, producer: Producer, notes: list[Any], noted: int) -> None:
        deadline = time.monotonic() + self._timeout_s

        def send() -> None:
            """The one call whose time-out the client forgets while the group's coordinator is down
            (librdkafka issue 5456): it may stand there for ever.
            """
            answer_within(
                self._timeout_s + _OVERTIME_S,
                lambda: producer.send_offsets_to_transaction(notes, self._group, self._timeout_s),
            )

        self._call("offsets", noted, send, deadline)

    def _explain(self, error: KafkaError, number: int) -> NoReturn:
        """What a failed call leads to."""
        self._raise_if_fenced(error, number)
        self._raise_for_good(error, number)
        how = _ABORTED if error.txn_requires_abort() else _INDEFINITE
        raise _Unsettled(how, f"{error.name()}: {error.str()}")

    def _raise_for_good(self, error: KafkaError, number: int) -> None:
        """What no attempt will change."""
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            raise too_large(number, self._config)
        if is_denied(error):
            raise explain_denial(error, f"committing cut {number}", self._config)
        if error.code() in _REFUSED:
            raise ConfigError(
                f"cut {number}: {error.name()} ({error.str()}) at {self._config.kafka.bootstrap}; the broker takes no such"
                " record: look at the settings of the output topics and at policies of the cluster"
            )

    def _call(self, name: str, noted: int, action: Callable[[], object], deadline: float) -> None:
        """Retriable errors: the same call again, until the deadline. How it ended goes into the diary."""
        self._record(name, Outcome.INVOKED, noted)
        while True:
            try:
                action()
            except KafkaException as error:
                fault = error_of(error)
                if not fault.retriable() or time.monotonic() > deadline or self._stop():
                    # Fenced is not `failed`: the commit may have landed before the other one came.
                    ended = Outcome.FAILED if fault.txn_requires_abort() else Outcome.INDETERMINATE
                    self._record(name, ended, noted)
                    raise
            except Unanswered:
                self._record(name, Outcome.INDETERMINATE, noted)
                self._producer = None  # to close it would wait for the same call
                raise _Unsettled(_INDEFINITE) from None
            else:
                self._record(name, Outcome.OK, noted)
                return
            time.sleep(0.02)

    def _raise_if_fenced(self, error: KafkaError, number: int | None) -> None:
        if is_fenced(error) and error.fatal():
            if number is not None and self._perhaps_by_ourselves():
                raise _Unsettled(_INDEFINITE)
            raise self._lost("while starting" if number is None else f"at cut {number}")

    def _perhaps_by_ourselves(self) -> bool:
        """Was a start of ours still under way? Then a successor is given the time to claim the job, if there is one."""
        now = time.monotonic()
        self._unanswered = [at for at in self._unanswered if now - at < _LATE_S]
        if not self._unanswered:
            return False
        self._unanswered.pop(0)  # each can fence once
        time.sleep(_CLAIM_S)
        return True

    def _lost(self, at: str) -> Fenced:
        """The job is another's; nothing is sent any more. The caller raises it."""
        self._fenced = True
        self._drop()
        return Fenced(
            f"fenced {at}: another worker opened {transactional_id(self._config)}, or this one stood"
            f" still for longer than {self._timeout_s:.0f} s inside a transaction; it must stop"
        )

    # -- producers -------------------------------------------------------------------------------

    def _ready(self, number: int) -> None:
        """A producer that may be trusted with another transaction."""
        if self._fenced:
            raise Fenced(f"cut {number}: this worker was fenced before; it must stop")
        if self._producer is not None:
            self._hear_from(self._producer, number)
        if self._tripwire.reason is not None or self._producer is None:
            self._replace(self._tripwire.reason or "other", number)

    def _hear_from(self, producer: Producer, number: int) -> None:
        """Let errors and statistics reach the tripwire; what has ended this producer since the last cut is raised."""
        try:
            producer.poll(0)
        except KafkaException as error:
            fault = error_of(error)
            with contextlib.suppress(_Unsettled):
                self._raise_if_fenced(fault, number)
            if is_denied(fault):
                raise explain_denial(fault, f"committing cut {number}", self._config) from None
            self._drop()

    def _replace(self, reason: str, number: int, sent: bytes = b"") -> int | None:
        """Another producer in the middle of a run; the offset of the ledger record `sent` where it had landed.

        Raises Fenced where another worker has come, BrokerUnavailable at the end of patience or on `stop`.
        """
        self._recreations.append(reason)
        self._renew(lambda: self._prove_ours(number))
        return self._landed(number, sent)

    def _settled(self, reason: str, number: int, sent: bytes) -> int | None:
        """`_replace` when a cut is on its way: its outcome stays open while the broker is away."""
        try:
            return self._replace(reason, number, sent)
        except BrokerUnavailable as error:
            raise CommitIndefinite(
                f"cut {number}: the outcome is open and the broker away ({error}); the next start reads the"
                " ledger and goes on"
            ) from error

    def _prove_ours(self, number: int) -> None:
        """Raises Fenced where it is not, BrokerUnavailable where nobody can say."""
        if self._tenure.over():
            raise self._lost(f"at cut {number}")

    def _renew(self, prove: Callable[[], None] = lambda: None) -> None:
        """A producer that is alone with the transactional id, and nothing pending from before.

        `prove` raises where there must be none, or BrokerUnavailable; it is asked before each attempt.
        """
        deadline, told = time.monotonic() + self._patience_s, ""
        while True:
            self._drop()
            try:
                prove()
                self._tripwire = Tripwire()
                settings = {**transactional_settings(self._config), **self._tripwire.settings()}
                self._producer = open_producer(settings, self._tripwire.hear)
                self._initialise(self._producer)
                self._tripwire.arm()
                return
            except KafkaException as error:
                fault = error_of(error)
                self._raise_if_fenced(fault, None)
                self._unanswered.append(time.monotonic())
                if is_denied(fault) or self._stop() or time.monotonic() > deadline:
                    self._drop()
                    doing = f"opening {transactional_id(self._config)}"
                    raise explain_denial(fault, doing, self._config) from None
                if fault.fatal():
                    raise self._unusable(fault) from None
                told = self._tell(f"{fault.name()}: {fault.str()}", told)
            except BrokerUnavailable as error:
                if self._stop() or time.monotonic() > deadline:
                    raise
                told = self._tell(str(error), told)
            time.sleep(0.1)

    def _tell(self, why: str, told: str) -> str:
        """Why there is no producer yet: once, and again when it changes."""
        if why != told:
            _LOG.warning("opening %s: %s; trying again", transactional_id(self._config), why)
        return why

    def _unusable(self, fault: KafkaError) -> ConfigError:
        """The broker has answered, and the client will not ask again."""
        self._drop()
        return ConfigError(
            f"opening {transactional_id(self._config)}: {fault.name()} ({fault.str()}) at"
            f" {self._config.kafka.bootstrap}; kafka.transaction_timeout_ms must be at most the broker's"
            " transaction.max.timeout.ms, and the broker must know transactions"
        )

    def _initialise(self, producer: Producer) -> None:
        """In short calls, which the client resumes, so that `stop` is heard."""
        deadline = time.monotonic() + CALL_S
        self._call("init", _NO_CUT, lambda: producer.init_transactions(1.0), deadline)

    def _drop(self) -> None:
        """Purge, close and forget.

        Closing aborts what is open first, and for that waits without limit where the broker is away; such a
        producer is left to itself.
        """
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaException, SystemError):
                producer.purge(blocking=False)
            # It warns where aborting makes no sense any more.
            with (
                contextlib.suppress(KafkaException, SystemError, Unanswered),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore", RuntimeWarning)
                answer_within(_CLOSE_S, producer.close)

    def _landed(self, number: int, sent: bytes) -> int | None:
        """Where the ledger record `sent` stands, None when it never came. Raises Fenced where another's does."""
        try:
            return self._tenure.landed(sent)
        except Overtaken:
            raise self._lost(f"at cut {number}") from None


def too_large(number: int, config: Config) -> ConfigError:
    """The fold bounds what it publishes, so a topic that takes less than that is a matter for a person."""
    return ConfigError(
        f"cut {number}: a record is larger than its topic takes. {config.topics.scores} must take"
        f" {config.scoring.max_record_bytes} bytes (scoring.max_record_bytes) and"
        f" {config.topics.dlq} 2097152, with their headers: raise max.message.bytes of the topic, and"
        " message.max.bytes if you have set it; then the cut is sent as it is"
    )


def _left_s(deadline: float) -> float:
    """Seconds until the deadline; a little even when it has passed, so that an answer can be fetched."""
    return max(0.1, deadline - time.monotonic())


def send(producer: Producer, wire: Wire, receipts: Receipts) -> None:
    """Queue one record; a full queue is drained first."""
    while True:
        try:
            producer.produce(
                wire.topic,
                wire.value,
                wire.key,
                headers=list(wire.headers),
                timestamp=wire.timestamp_ms,
                on_delivery=receipts.keep,
            )
            return
        except BufferError:
            producer.poll(0.1)
