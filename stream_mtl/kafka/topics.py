"""Our topics: created with the right settings where the broker allows it, and told apart by their ids."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata, TopicMetadata
from confluent_kafka.cimpl import NewTopic

from schemas.scores import TopicIdentity
from stream_mtl.config import DAY, Config
from stream_mtl.errors import BrokerUnavailable, ConfigError, TopicChanged, TopicMissing
from stream_mtl.kafka.faults import CALL_S, error_of, explain
from stream_mtl.kafka.reach import connect

INPUT_RETENTION_MS = 14 * DAY  # input holds people's data: under 30 days
LEDGER_RETENTION_MS = 90 * DAY  # checkpoints anchor its hash chain, so older records may go
_MOCK = "mockCluster"  # how the embedded broker calls itself
# What a cluster says whose brokers are still coming up, and for how long that is waited out.
_STARTING = {
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.NOT_CONTROLLER,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.THROTTLING_QUOTA_EXCEEDED,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
}
_GATHERING_S = 15.0
_AWAY = _STARTING - {KafkaError.INVALID_REPLICATION_FACTOR}
_NO_ID = "A" * 22  # the all-zero UUID in Kafka's base64
COMPACTION_LAG_MS = 7 * DAY  # roll-forward must find the records that it once read


@dataclass(frozen=True, slots=True)
class TopicPlan:
    """How a topic is created when it is missing."""

    partitions: int
    settings: Mapping[str, str]


def input_topics(config: Config) -> tuple[str, ...]:
    """All that the trainer reads, event topics first."""
    return (*config.topics.events, config.topics.items, config.topics.control)


def plan(config: Config, retention_ms: int = INPUT_RETENTION_MS) -> dict[str, TopicPlan]:
    """Every topic of ours and its settings. `retention_ms` -1 keeps old event times (simulations).

    Kafka reads the compaction lag off the record times, so a catalogue whose times are old would be
    compacted at once, under the worker's roll-forward: with -1 nothing is compacted.
    """
    many, names = config.topics.partitions, config.topics
    timed = {"cleanup.policy": "delete", "retention.ms": str(retention_ms)}
    compacted = {"cleanup.policy": "compact"}
    ledger = {"cleanup.policy": "delete", "retention.ms": str(LEDGER_RETENTION_MS)}
    lagging = {**compacted, "min.compaction.lag.ms": str(COMPACTION_LAG_MS)}
    dead = {**timed, "max.message.bytes": "2097152"}  # the record and its context
    return {
        **{name: TopicPlan(many, timed) for name in names.events},
        names.items: TopicPlan(many, timed if retention_ms < 0 else lagging),
        names.control: TopicPlan(1, timed),
        names.acks: TopicPlan(1, timed),
        names.scores: TopicPlan(many, {**compacted, "delete.retention.ms": str(COMPACTION_LAG_MS)}),
        names.dlq: TopicPlan(many, dead),
        names.ledger: TopicPlan(1, ledger),
    }


def ensure_topics(config: Config, retention_ms: int = INPUT_RETENTION_MS) -> list[str]:
    """Create what is missing, check the rest; returns the names created.

    Raises ConfigError when a topic is missing and may not be created, or when partition counts do not fit;
    BrokerUnavailable when nobody answers.
    """
    admin, metadata = connect(config)
    planned = plan(config, retention_ms)
    missing = [name for name in planned if name not in _counted(metadata)]
    if missing:
        _create(admin, config, {name: planned[name] for name in missing})
        _await_metadata(admin, config, missing)
    check_counts(config, _partitions(admin, config))
    return missing


def identities(config: Config, patience_s: float = 0.0) -> dict[str, TopicIdentity]:
    """Id and partition count of every topic of ours. Raises TopicMissing naming a missing one.

    An id changes when a topic is created anew; it is "" where the broker knows none. `patience_s`: another broker
    than the one that created a topic hears of it a moment later.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return _identities(config)
        except TopicMissing:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.1)


def _identities(config: Config) -> dict[str, TopicIdentity]:
    admin, metadata = connect(config)
    found = _counted(metadata)
    names = list(plan(config))
    _require(names, found, config)
    ids = {} if is_embedded(metadata) else _topic_ids(admin, names, config)
    return {name: TopicIdentity(id=ids.get(name, ""), partitions=found[name]) for name in names}


def cluster_id(config: Config) -> str:
    """The broker's own name for its cluster; "" where it has none. BrokerUnavailable when nobody answers."""
    return connect(config)[1].cluster_id or ""


def is_embedded(metadata: ClusterMetadata) -> bool:
    """Is it the broker inside a process, which does not answer most questions at all?"""
    return (metadata.cluster_id or "").startswith(_MOCK)


_ANEW = "Or begin anew, with another app, topics.ledger and --state"


def check_identities(
    expected: Mapping[str, TopicIdentity], found: Mapping[str, TopicIdentity]
) -> None:
    """Raises TopicChanged when a topic was created anew or its partition count moved.

    Offsets of a recreated topic may look valid and mean other records; with other partition counts keys
    move between partitions.
    """
    for name, old in expected.items():
        new = found.get(name)
        if new is None:
            raise TopicChanged(
                f"topic {name} of the ledger is not there, or not in the configuration any more; create it again, or"
                f" name it as before. {_ANEW}"
            )
        if old.id and new.id and old.id != new.id:
            raise TopicChanged(
                f"topic {name} was created anew: id {old.id} before, {new.id} now; its old offsets"
                " mean other records; --accept-topic-recreation reads it from its start"
            )
        if old.partitions != new.partitions:
            raise TopicChanged(
                f"topic {name} had {old.partitions} partitions, now {new.partitions}; keys moved between"
                f" them, so join windows are split. No broker lowers a count: create the topic again with"
                f" {old.partitions} and start with --accept-topic-recreation. {_ANEW}"
            )


def check_counts(config: Config, partitions: Mapping[str, int]) -> None:
    """Raises ConfigError unless all topics exist and their partition counts fit together."""
    names = config.topics
    _require(list(plan(config)), partitions, config)
    counts = {name: partitions[name] for name in names.events}
    if len(set(counts.values())) > 1:
        raise ConfigError(
            f"event topics must have equal partition counts, so that a user is in one: {counts}"
        )
    for name in (names.control, names.ledger):
        if partitions[name] != 1:
            raise ConfigError(
                f"topic {name} must have one partition, its order is the meaning; it has {partitions[name]}"
            )


def _require(names: list[str], found: Mapping[str, int], config: Config) -> None:
    missing = [name for name in names if name not in found]
    if missing:
        raise TopicMissing(
            f"missing at {config.kafka.bootstrap}: {', '.join(missing)}; create them, or set"
            " topics.create and let the broker's ACLs allow it"
        )


def _partitions(admin: AdminClient, config: Config) -> dict[str, int]:
    return _counted(_metadata(admin, config))


def _metadata(admin: AdminClient, config: Config) -> ClusterMetadata:
    try:
        return admin.list_topics(timeout=CALL_S)
    except KafkaException as error:
        raise explain(error_of(error), "listing topics", config.kafka.bootstrap) from None


def _counted(metadata: ClusterMetadata) -> dict[str, int]:
    """Topic -> partition count, of all topics that this client may see."""
    topics = metadata.topics.items()
    return {name: len(topic.partitions) for name, topic in topics if topic.error is None}


def _topic_ids(admin: AdminClient, names: list[str], config: Config) -> dict[str, str]:
    """Topic -> id as text; empty where the broker is too old to have ids."""
    ids = {}
    described = admin.describe_topics(TopicCollection(names), request_timeout=CALL_S)
    for name, future in described.items():
        try:
            told = str(future.result().topic_id)
        except KafkaException as error:
            raise explain(error_of(error), f"describing {name}", config.kafka.bootstrap) from None
        ids[name] = "" if told == _NO_ID else told
    return ids


def _await_metadata(admin: AdminClient, config: Config, names: list[str]) -> None:
    """A created topic shows in the metadata a moment later, its leaders another one."""
    deadline = time.monotonic() + CALL_S
    while time.monotonic() < deadline:
        topics = _metadata(admin, config).topics
        if all(name in topics and _led(topics[name]) for name in names):
            return
        time.sleep(0.05)


def _led(topic: TopicMetadata) -> bool:
    return bool(topic.partitions) and all(one.leader >= 0 for one in topic.partitions.values())


def _create(admin: AdminClient, config: Config, wanted: Mapping[str, TopicPlan]) -> None:
    names = ", ".join(wanted)
    if not config.topics.create:
        raise TopicMissing(
            f"missing at {config.kafka.bootstrap}: {names}; topics.create is off, so create them"
        )
    replication = config.topics.replication
    extra = {"min.insync.replicas": "2"} if replication >= 3 else {}
    new = [
        NewTopic(name, one.partitions, replication, config={**one.settings, **extra})
        for name, one in wanted.items()
    ]
    deadline = time.monotonic() + _GATHERING_S
    while True:
        refused = _refused(admin, new)
        fault = next(iter(refused.values()), None)
        if fault is None:
            return
        passes = all(one.retriable() or one.code() in _STARTING for one in refused.values())
        if not passes or time.monotonic() > deadline:
            kind = BrokerUnavailable if fault.retriable() or fault.code() in _AWAY else ConfigError
            raise kind(
                f"topic {next(iter(refused))} is missing at {config.kafka.bootstrap} and could not be created"
                f" ({fault.name()}: {fault.str()}); create it by hand, or allow this client to"
            )
        new = [one for one in new if one.topic in refused]
        time.sleep(0.5)


def _refused(admin: AdminClient, new: list[NewTopic]) -> dict[str, KafkaError]:
    """Topics that could not be created, and why; one that is there already could."""
    refused = {}
    for name, future in admin.create_topics(new, operation_timeout=CALL_S).items():
        try:
            future.result()
        except KafkaException as error:
            fault = error_of(error)
            if fault.code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another worker was faster
                refused[name] = fault
    return refused
