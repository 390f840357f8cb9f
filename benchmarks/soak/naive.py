"""What many workers do instead, one function a fault: each must fail where ours holds.

A worker of the soak becomes naive by the variable SOAK_NAIVE; nothing outside this folder knows of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from confluent_kafka import KafkaException, Producer

from stream_mtl.cut import CutResult
from stream_mtl.kafka.faults import error_of
from stream_mtl.kafka.publication import Committed, Publication, Wire, offsets
from stream_mtl.kafka.receipts import Receipts
from stream_mtl.kafka.sink import TransactionalSink

_PRUNE_CUTS = 45
_BETWEEN_S = 0.6  # two transactions, wide apart: a kill at a random moment shall meet the gap
# The failpoint before such a deletion: it is passed twice a cut, here and in the sink.
PRUNING = f"commit.beginning:{2 * _PRUNE_CUTS - 1}"


def apply(name: str) -> None:
    """Turn this process into the naive variant of that name, or of several (`a+b`); "" leaves it as it is."""
    for one in filter(None, name.split("+")):
        NAIVE[one]()


def scores_apart() -> None:
    """Offsets and ledger record in one transaction, the scores in the next: a crash in between loses them."""
    whole = TransactionalSink.commit

    def commit(self: TransactionalSink, publication: Publication) -> Committed:
        progress = replace(publication, outputs=(), dead_letters=())
        committed = whole(self, progress)
        producer = self._producer
        assert producer is not None
        time.sleep(_BETWEEN_S)
        producer.begin_transaction()
        self._produce(producer, replace(publication, ledger=b""), Receipts())
        producer.commit_transaction(10.0)
        return committed

    # The ledger record must not be there twice: the second transaction carries scores alone.
    import stream_mtl.kafka.sink as sink

    send = sink.send

    def send_unless_empty(producer: Producer, wire: Wire, receipts: Receipts) -> None:
        if wire.value != b"":
            send(producer, wire, receipts)

    sink.send = send_unless_empty
    TransactionalSink.commit = commit  # type: ignore[method-assign]


def letters_apart() -> None:
    """Dead letters go out as they come, before the cut's transaction: a crash in between doubles them."""
    whole = TransactionalSink.commit

    def commit(self: TransactionalSink, publication: Publication) -> Committed:
        import stream_mtl.kafka.sink as sink
        from stream_mtl.kafka.publication import published
        from stream_mtl.kafka.settings import open_producer, producer_settings

        apart = open_producer(producer_settings(self._config))
        letters = replace(publication, outputs=())
        for wire in published(letters, self._config):
            sink.send(apart, wire, Receipts())
        apart.flush(10.0)
        apart.close()
        return whole(self, replace(publication, dead_letters=()))

    TransactionalSink.commit = commit  # type: ignore[method-assign]


def no_two_instances() -> None:
    """Whoever starts, fences: two supervised copies end each other for ever."""
    import workers.startup

    workers.startup.refuse_second = lambda *arguments: None


def no_claims() -> None:
    """The two-instances rule looks at commits alone: who restores for long has none to show."""
    from workers.startup import _Recovery

    _Recovery._claim = lambda self, recreated: None  # type: ignore[method-assign]


def slow_fold(seconds: float = 0.5) -> None:
    """Not naive, but slow: folding a cut again takes that much longer, as with a large model."""
    import workers.startup

    roll_forward = workers.startup.roll_forward

    def slowly(*arguments: Any, **named: Any) -> Any:
        for replayed in roll_forward(*arguments, **named):
            time.sleep(seconds)
            yield replayed

    workers.startup.roll_forward = slowly


def prune_first() -> None:
    """Deletes old checkpoints now and then, whether or not an own later commit came: so does a zombie."""
    from workers.trainer import Trainer

    fold_and_commit, prune = Trainer._fold_and_commit, Trainer._prune
    cuts = 0

    def pruned(self: Trainer, cut: Any, tried: bool = False) -> CutResult:
        commit = self._ports.sink.commit

        def after_pruning(publication: Publication) -> Committed:
            nonlocal cuts
            cuts += 1
            self._ports.failpoint("commit.beginning")  # woken here it has not tried to commit yet
            if cuts % _PRUNE_CUTS == 0:
                self._note_written()
                self._prune_due = True
                prune(self)
            return commit(publication)

        object.__setattr__(self._ports.sink, "commit", after_pruning)
        try:
            return fold_and_commit(self, cut, tried)
        finally:
            object.__setattr__(self._ports.sink, "commit", commit)

    Trainer._fold_and_commit = pruned  # type: ignore[method-assign]
    Trainer._prune = lambda self: None  # type: ignore[method-assign]


def forgetful() -> None:
    """An open outcome is not looked up in the ledger: the cut is sent again."""
    TransactionalSink._landed = ForgetfulSink._landed  # type: ignore[method-assign]


class StubbornSink(TransactionalSink):
    """Keeps its producer whatever happens, and sends again what got no answer, without asking the ledger."""

    def commit(self, publication: Publication) -> Committed:
        number = publication.cut.number
        while True:
            producer, receipts = self._producer, Receipts()
            assert producer is not None
            try:
                producer.begin_transaction()
                self._produce(producer, publication, receipts)
                self._failpoint("commit.produced")
                notes = offsets(publication.positions, number, self._incarnation)
                self._send_offsets(producer, notes, number)
                producer.commit_transaction(self._timeout_s)
                return Committed(number, receipts.offset(self._config.topics.ledger), 0.0, 0.0)
            except KafkaException as error:
                self._begin_again(producer, error)

    def _begin_again(self, producer: Producer, error: KafkaException) -> None:
        """Whatever it takes to be allowed to begin: finish the commit, abort, at last another producer."""
        fault = error_of(error)
        for attempt in (producer.commit_transaction, producer.abort_transaction):
            try:
                if not fault.fatal():
                    attempt(5.0)
                    return
            except KafkaException as again:
                fault = error_of(again)
        self._renew()


class ForgetfulSink(TransactionalSink):
    """Settles an open outcome with a new producer, as it should, but sends again without reading the ledger."""

    def _landed(self, number: int, sent: bytes) -> int | None:
        return None


class TrustingSink(TransactionalSink):
    """Reads the ledger when an outcome is open, but keeps a producer that looks well: no tripwire."""

    def _ready(self, number: int) -> None:
        if self._producer is None:
            super()._ready(number)


def turn_clock(ahead_ms: int) -> None:
    """A wrong clock: wall time is that much ahead of the real one, for all that the worker asks it for."""
    import workers.ports

    real = workers.ports.wall_ms
    workers.ports.wall_ms = lambda: real() + ahead_ms


NAIVE: Mapping[str, Callable[[], None]] = {
    "forgetful": forgetful,
    "letters_apart": letters_apart,
    "no_claims": no_claims,
    "no_two_instances": no_two_instances,
    "prune_first": prune_first,
    "scores_apart": scores_apart,
    "slow_fold": slow_fold,
    "slower_fold": partial(slow_fold, 2.0),
}
