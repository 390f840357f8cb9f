"""All that a trainer touches outside itself, in one value: Kafka in a worker, memory in a test."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from schemas.scores import TopicIdentity
from stream_mtl.checkpoint_writer import Joinable, thread
from stream_mtl.config import Config
from stream_mtl.cut import Cut, Range, Record
from stream_mtl.errors import BrokerUnavailable
from stream_mtl.failpoints import Failpoint
from stream_mtl.kafka.publication import Claim, Committed, Publication, noted_claim
from stream_mtl.kafka.unstable import Unstable
from stream_mtl.ledger import Partition
from stream_mtl.orders import Orders
from stream_mtl.recovery import Fold
from workers.context import environment_of
from workers.failpoint import CALLS_VARIABLE, recorder

_SPREAD_S = 5.0  # in which all brokers know of a new topic

Stopped = Callable[[], bool]


class Model(Fold, Protocol):
    """A fold that can also tell how it is doing."""

    orders: Orders

    @property
    def reports(self) -> Sequence[Any]: ...

    @property
    def watermark_ms(self) -> int: ...

    def fits(self, saved: Mapping[str, Any]) -> list[str]:
        """Tasks that would begin anew with `roll_back`. Raises the StateError that it would."""
        ...

    def quality(self) -> Mapping[str, Mapping[str, object]]: ...

    def summary(self) -> dict[str, Any]: ...


class Log(Protocol):
    """Where cuts come from: `stream_mtl.kafka.source.Source`."""

    @property
    def positions(self) -> dict[Partition, int]: ...

    @property
    def at_end(self) -> bool: ...
    def prove(self) -> None: ...

    @property
    def gap_records(self) -> dict[str, int]: ...

    def open(self, positions: Mapping[Partition, int]) -> None: ...
    def next_commands(self, number: int, stop: Stopped = ...) -> Cut | None: ...

    @property
    def commands_at_end(self) -> bool: ...

    def next_cut(
        self, number: int, stop: Stopped = ..., at_most: int | None = None
    ) -> Cut | None: ...
    def cut_until(self, number: int, stops: Mapping[Partition, int]) -> Cut: ...
    def return_to(self, positions: Mapping[Partition, int]) -> None: ...
    def read(self, ranges: Sequence[Range]) -> Sequence[Record]: ...
    def heartbeat(self) -> AbstractContextManager[None]: ...
    def lag(self) -> dict[Partition, int]: ...

    def unstable(self, fresh: bool = False) -> Mapping[Partition, Unstable]: ...
    def close(self) -> None: ...


class Sink(Protocol):
    """Where commits go: `stream_mtl.kafka.sink` and `plain_sink`."""

    delivery: str

    def open(self) -> None: ...
    def commit(self, publication: Publication) -> Committed: ...
    def refresh(
        self, cut_number: int, positions: Mapping[Partition, int], claim: Claim | None = None
    ) -> None: ...
    def close(self) -> None: ...


class RepublishingSink(Sink, Protocol):
    def republish(self, publication: Publication, ledger_offset: int) -> Committed: ...


@dataclass(frozen=True, slots=True)
class Ports:
    source: Log
    sink: Sink
    prepare: Callable[[], Mapping[str, TopicIdentity]]  # creates what is missing
    cluster: Callable[[], str]
    last_record: Callable[[], tuple[int, bytes] | None]
    read_ledger: Callable[[int | None], list[tuple[int, bytes]]]
    committed_offsets: Callable[[], Mapping[Partition, int]]
    claims: Callable[
        [], Sequence[Claim]
    ]  # of whoever says in the offsets' notes that it holds the job
    build: Callable[[str], Model]  # by lineage
    environment: Mapping[str, str]
    failpoint: Failpoint
    clock: Callable[[], int]  # wall time, ms
    elapsed: Callable[[], float]  # monotonic, s
    spawn: Callable[[Callable[[], None]], Joinable] = thread
    retentions: Callable[[], Mapping[str, int]] = (
        dict  # of input topics, ms; what is not known is absent
    )


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def kafka_ports(config: Config, incarnation: str, stop: Stopped, failpoint: Failpoint) -> Ports:
    """The real ones. Creates clients, asks the broker nothing yet."""
    from stream_mtl import build
    from stream_mtl.kafka import ledger_log, rights, survey, topics
    from stream_mtl.kafka.plain_sink import AtLeastOnceSink
    from stream_mtl.kafka.sink import TransactionalSink
    from stream_mtl.kafka.source import Source

    def prepare() -> Mapping[str, TopicIdentity]:
        rights.require(config)
        if not topics.ensure_topics(config):
            return topics.identities(config)
        rights.require(config)  # of a topic that was not there nothing could be said
        return topics.identities(config, patience_s=_SPREAD_S)

    def committed() -> Mapping[Partition, int]:
        found = ledger_log.committed_offsets(config)
        return {place: offset for place, (offset, _) in found.items()}

    def claims() -> Sequence[Claim]:
        # A transaction that a dead process left open would hold the answer back until it times out: the sink, whose
        # opening ends it, comes after this look.
        notes = ledger_log.committed_offsets(config, overlook_open=True).values()
        return [claim for _, note in notes if (claim := noted_claim(note))]

    def retentions() -> Mapping[str, int]:
        try:
            return survey.retentions(config, topics.input_topics(config))
        except BrokerUnavailable:  # a gauge is not worth a restored state
            return {}

    sink: Sink
    if config.kafka.delivery == "exactly_once":
        diary = recorder(os.environ.get(CALLS_VARIABLE, ""), incarnation)
        sink = TransactionalSink(config, incarnation, failpoint, stop, record=diary)
    else:
        sink = AtLeastOnceSink(config, incarnation, failpoint, stop)
    return Ports(
        source=Source(config, wall_ms, waiting=stop),
        sink=sink,
        prepare=prepare,
        cluster=lambda: topics.cluster_id(config),
        last_record=lambda: ledger_log.last_record(config),
        read_ledger=lambda offset: ledger_log.read_ledger(config, offset),
        committed_offsets=committed,
        claims=claims,
        build=lambda lineage: build(config, lineage),
        environment=environment_of(config),
        failpoint=failpoint,
        clock=wall_ms,
        elapsed=time.monotonic,
        retentions=retentions,
    )
