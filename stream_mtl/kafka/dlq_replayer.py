"""Sends records back to the topics they came from, each in one transaction with its receipt."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Producer

from stream_mtl.config import Config
from stream_mtl.cut import Headers, Record
from stream_mtl.dlq_replay import Letter, counted_headers, receipt
from stream_mtl.errors import BrokerUnavailable, CommitIndefinite, Fenced
from stream_mtl.kafka.faults import CALL_S, error_of, explain, is_fenced
from stream_mtl.kafka.receipts import Receipts
from stream_mtl.kafka.settings import open_producer, replay_settings


@dataclass(frozen=True, slots=True)
class Resend:
    """A letter, and the record to send for it: whole, with the headers its producer wrote."""

    letter: Letter
    record: Record


class TooLarge(Exception):
    """The topic does not take this record any more."""


class Replayer:
    """One at a time: opening it fences an earlier one and settles what that left open. Then read receipts."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._producer: Producer = open_producer(replay_settings(config))
        self._receipts = Receipts()  # of the transaction under way

    def open(self) -> None:
        """Raises BrokerUnavailable, or ConfigError for a missing permission."""
        deadline = time.monotonic() + CALL_S
        while True:
            try:
                self._producer.init_transactions(CALL_S)
                return
            except KafkaException as error:
                fault = error_of(error)
                if not fault.retriable() or time.monotonic() > deadline:
                    doing = "opening the transactions of dlq replay"
                    raise explain(fault, doing, self._config.kafka.bootstrap) from None
            time.sleep(0.1)

    def send(self, batch: Sequence[Resend]) -> None:
        """All of them or none. Raises TooLarge, Fenced, BrokerUnavailable, CommitIndefinite."""
        self._receipts = Receipts()
        try:
            self._producer.begin_transaction()
            for one in batch:
                self._produce(one)
            left = self._producer.flush(CALL_S)
        except KafkaException as error:
            self._refuse(error_of(error))
        if not self._receipts.errors() and (left or self._receipts.unplaced()):
            self._abort()
            raise BrokerUnavailable(
                f"replay: of {len(batch)} letters the broker does not say that it has all; none was sent. Run it again"
            )
        try:
            self._producer.commit_transaction(CALL_S)
        except KafkaException as error:
            fault = error_of(error)
            if fault.txn_requires_abort() or fault.fatal():
                self._refuse(fault)
            raise CommitIndefinite(
                f"replay: the outcome of {len(batch)} letters is open ({fault.str()}); run it again: it"
                " settles them first and sends none twice"
            ) from None

    def close(self) -> None:
        with contextlib.suppress(KafkaException, SystemError):
            self._producer.purge(blocking=False)
        with contextlib.suppress(KafkaException, SystemError):
            self._producer.close()

    def _produce(self, one: Resend) -> None:
        record, letter = one.record, one.letter
        headers = counted_headers(record.headers, letter.replays + 1)
        stamp = max(0, record.timestamp_ms or 0)
        self._queue(record.topic, record.partition, record.key, record.value, headers, stamp)
        # beside its letter, so it lives as long
        self._queue(self._config.topics.dlq, letter.place[0], None, None, receipt(letter.place))

    def _queue(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        timestamp_ms: int = 0,
    ) -> None:
        while True:
            try:
                self._producer.produce(
                    topic,
                    value,
                    key,
                    partition,
                    headers=list(headers),
                    timestamp=timestamp_ms,
                    on_delivery=self._receipts.keep,
                )
                return
            except BufferError:
                self._producer.poll(0.1)

    def _refuse(self, fault: KafkaError) -> None:
        """Abort, and say why; always raises."""
        if is_fenced(fault):
            raise Fenced("another `dlq replay` of this app has begun; this one has stopped")
        self._abort()
        if fault.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            raise TooLarge
        raise explain(fault, "replaying dead letters", self._config.kafka.bootstrap)

    def _abort(self) -> None:
        with contextlib.suppress(KafkaException):
            self._producer.abort_transaction(CALL_S)
