"""What a worker must be allowed to do on a Kafka with ACLs, and what of it is not granted.

The table is all that the trainer needs and no more; `kafka-acls` lines for it come from here too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient

from stream_mtl.config import Config
from stream_mtl.errors import ConfigError, StreamMtlError
from stream_mtl.kafka.faults import CALL_S, error_of, explain, is_denied, is_missing
from stream_mtl.kafka.reach import connect, principal
from stream_mtl.kafka.settings import group_id, transactional_id
from stream_mtl.kafka.topics import is_embedded

# The coordinator of a group may still be on its way: the first group of a cluster creates the topic of offsets.
_MOVING = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE)


@dataclass(frozen=True, slots=True)
class Right:
    """One operation on one resource. Read and Write include Describe."""

    resource: str  # topic, group, transactional-id: as kafka-acls names them
    name: str
    operation: str
    why: str

    def __str__(self) -> str:
        return f"{self.operation} on {self.resource} {self.name}"


def rights(config: Config) -> tuple[Right, ...]:
    """Everything that `run trainer` needs when its topics are there."""
    names = config.topics
    table = [
        *[Right("topic", name, "Read", "to read events") for name in names.events],
        Right("topic", names.items, "Read", "to read the catalogue"),
        Right("topic", names.control, "Read", "to read commands"),
        Right("topic", names.scores, "Write", "to publish lists"),
        Right("topic", names.dlq, "Write", "to put broken records aside"),
        Right("topic", names.acks, "Write", "to answer commands"),
        Right("topic", names.ledger, "Read", "to find out at a start what was committed"),
        Right("topic", names.ledger, "Write", "to record each cut"),
        Right("group", group_id(config), "Read", "to commit offsets"),
    ]
    if config.kafka.delivery == "exactly_once":
        name = transactional_id(config)
        table.append(Right("transactional-id", name, "Write", "to commit each cut as a whole"))
    return tuple(table)


def grant_line(right: Right, who: str, bootstrap: str) -> str:
    """The command by which an administrator grants a right."""
    return (
        f"kafka-acls.sh --bootstrap-server {bootstrap} --command-config ADMIN.properties --add"
        f' --allow-principal "{who}" --operation {right.operation} --{right.resource} {right.name}'
    )


def missing(config: Config) -> list[Right]:
    """The rights that the broker says are not granted; of topics that do not exist nothing is known.

    The transactional id is left out: only a transaction could tell, and that would fence a running worker.
    Empty where the broker does not say (the embedded one). Raises what `reach.connect` raises.
    """
    admin, metadata = connect(config, "asking for rights")
    if is_embedded(metadata):
        return []
    wanted = rights(config)
    of_topics = _of_topics(admin, [one.name for one in wanted if one.resource == "topic"])
    of_group = _of_group(admin, group_id(config))
    held = {"topic": of_topics, "group": {group_id(config): of_group}}
    return [
        one
        for one in wanted
        if (granted := held.get(one.resource, {}).get(one.name)) is not None
        and one.operation not in granted
    ]


def require(config: Config, doing: str = "starting") -> None:
    """Raises ConfigError with every missing right and how to grant it, and what `missing` raises."""
    if lacking := missing(config):
        raise _denied(doing, lacking, config)


def explain_denial(error: KafkaError, doing: str, config: Config) -> StreamMtlError:
    """The exception of ours for a refusal met while `doing` something; the caller raises it."""
    if error.code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
        lacking = [one for one in rights(config) if one.resource == "transactional-id"]
    else:
        lacking = missing(config) if is_denied(error) else []
    if lacking:
        return _denied(doing, lacking, config)
    return explain(error, doing, config.kafka.bootstrap)


def _denied(doing: str, lacking: list[Right], config: Config) -> ConfigError:
    who, bootstrap = principal(config), config.kafka.bootstrap
    lines = [
        f"{doing}: {who} has no right to {one} ({one.why}) at {bootstrap}; grant it: {grant_line(one, who, bootstrap)}"
        for one in lacking
    ]
    return ConfigError("\n".join(lines))


def _of_topics(admin: AdminClient, names: list[str]) -> dict[str, set[str] | None]:
    """Topic -> operations; None for one that does not exist, empty for one that may not be seen."""
    found: dict[str, set[str] | None] = {}
    asked = admin.describe_topics(
        TopicCollection(sorted(set(names))),
        include_authorized_operations=True,
        request_timeout=CALL_S,
    )
    for name, future in asked.items():
        try:
            found[name] = _operations(future.result())
        except KafkaException as error:
            found[name] = None if is_missing(error_of(error)) else _nothing(error)
    return found


def _of_group(admin: AdminClient, name: str) -> set[str] | None:
    deadline = time.monotonic() + CALL_S
    while True:
        asked: Mapping[str, Any] = admin.describe_consumer_groups(
            [name], include_authorized_operations=True, request_timeout=CALL_S
        )
        try:
            return _operations(asked[name].result())
        except KafkaException as error:
            if error_of(error).code() not in _MOVING or time.monotonic() > deadline:
                return _nothing(error)
        time.sleep(0.1)


def _operations(description: Any) -> set[str] | None:
    """None where an old broker does not say."""
    told = description.authorized_operations
    return None if told is None else {one.name.capitalize() for one in told}


def _nothing(error: KafkaException) -> set[str] | None:
    """No operation when we were refused; unknown after any other fault: the work itself will meet it."""
    return set() if is_denied(error_of(error)) else None
