"""The sink without transactions: intent first, then outputs, then offsets.

The ledger record is durable before anything of its cut is visible. After a crash the cuts beyond the
committed offsets are folded again *with* output: since the ledger fixed them, the same bytes go out again.
Subscribers may see a record twice; nothing is lost. There is no fencing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from stream_mtl.config import Config
from stream_mtl.errors import BrokerUnavailable
from stream_mtl.failpoints import Failpoint, unarmed
from stream_mtl.kafka.faults import error_of, is_denied
from stream_mtl.kafka.ledger_log import last_record
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
from stream_mtl.kafka.rights import explain_denial
from stream_mtl.kafka.settings import (
    consumer_settings,
    open_consumer,
    open_producer,
    producer_settings,
)
from stream_mtl.kafka.sink import PATIENCE_S, send, too_large

_ATTEMPTS = 8


class AtLeastOnceSink:
    """Commits cuts at least once, in the order ledger record, outputs, offsets."""

    delivery = "at_least_once"

    def __init__(
        self,
        config: Config,
        incarnation: str = "",
        failpoint: Failpoint = unarmed,
        stop: Callable[[], bool] = lambda: False,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._config = config
        self._incarnation = incarnation
        self._failpoint = failpoint
        self._stop = stop
        self._patience_s = patience_s
        self._producer: Producer | None = None
        self._consumer: Consumer | None = None  # commits offsets, reads nothing
        self._recreations: list[str] = []

    def open(self) -> None:
        self._producer = open_producer(producer_settings(self._config))
        self._consumer = open_consumer(consumer_settings(self._config))

    def commit(self, publication: Publication) -> Committed:
        """Ledger record, outputs, offsets; each durable before the next is sent.

        Raises BrokerUnavailable at the end of patience or on `stop`; the next start publishes again.
        """
        started = time.monotonic()
        self._failpoint("commit.begin")
        offset = self._intend(publication)
        return self._publish(publication, offset, started)

    def republish(self, publication: Publication, ledger_offset: int) -> Committed:
        """A cut whose ledger record stands already, beyond the committed offsets: outputs and offsets again."""
        return self._publish(publication, ledger_offset, time.monotonic())

    def refresh(
        self, cut_number: int, positions: Mapping[Place, int], claim: Claim | None = None
    ) -> None:
        """Commit offsets alone, for an idle job: at least hourly, or they expire. Nothing is claimed here."""
        self._commit_offsets(cut_number, positions)

    def close(self) -> None:
        self._drop()
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _publish(self, publication: Publication, offset: int, started: float) -> Committed:
        number = publication.cut.number
        self._failpoint("commit.produced")
        self._send_all(list(published(publication, self._config)), number)
        self._failpoint("commit.flushed")
        self._commit_offsets(number, publication.positions)
        self._failpoint("commit.acknowledged")
        recreations, self._recreations = tuple(self._recreations), []
        seconds = time.monotonic() - started
        return Committed(number, offset, seconds, 0.0, recreations=recreations)

    def _intend(self, publication: Publication) -> int:
        """The ledger record, durable; its offset. A failed attempt may have got through, so look first."""
        wire = ledger_wire(publication, self._config)
        for _ in range(_ATTEMPTS):
            receipts = self._send([wire], publication.cut.number)
            if receipts is not None:
                return receipts.offset(wire.topic)
            last = last_record(self._config)
            if last is not None and last[1] == publication.ledger:
                return last[0]
        raise self._gave_up(publication.cut.number)

    def _send_all(self, wires: list[Wire], number: int) -> None:
        for _ in range(_ATTEMPTS):
            if self._send(wires, number) is not None:
                return
        raise self._gave_up(number)

    def _send(self, wires: Iterable[Wire], number: int) -> Receipts | None:
        """Produce and flush. None when a record failed or is perhaps not there, and then with another producer."""
        assert self._producer is not None, "open() comes first"
        receipts = Receipts()
        producer = self._producer
        try:
            for wire in wires:
                send(producer, wire, receipts)
            self._flush(producer, number)
        except KafkaException as error:
            receipts.keep(error_of(error), None)
        failed = receipts.errors()
        if not failed and not receipts.unplaced():
            return receipts
        if failed and failed[0].code() == KafkaError.MSG_SIZE_TOO_LARGE:
            raise too_large(number, self._config)
        if failed and is_denied(failed[0]):
            raise explain_denial(failed[0], f"publishing cut {number}", self._config)
        self._recreations.append("other" if failed else "unplaced")
        self._drop()
        self._producer = open_producer(producer_settings(self._config))
        return None

    def _flush(self, producer: Producer, number: int) -> None:
        deadline = time.monotonic() + self._patience_s
        while producer.flush(0.5):
            if self._stop() or time.monotonic() > deadline:
                self._drop()
                raise self._gave_up(number)

    def _commit_offsets(self, number: int, positions: Mapping[Place, int]) -> None:
        assert self._consumer is not None, "open() comes first"
        notes = offsets(positions, number, self._incarnation)
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                taken = self._consumer.commit(offsets=notes, asynchronous=False) or []
                failed = [one.error for one in taken if one.error is not None]
                if not failed:
                    return
                fault = failed[0]  # the client raises only when no partition's was taken
            except KafkaException as error:
                fault = error_of(error)
            if is_denied(fault) or self._stop() or time.monotonic() > deadline:
                doing = f"committing offsets of cut {number}"
                raise explain_denial(fault, doing, self._config)
            time.sleep(0.1)

    def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaException, SystemError):
                producer.purge(blocking=False)
            with contextlib.suppress(KafkaException, SystemError):
                producer.close()

    def _gave_up(self, number: int) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"cut {number} could not be published at {self._config.kafka.bootstrap}; its ledger record"
            " may stand: the next start publishes it again, byte for byte"
        )
