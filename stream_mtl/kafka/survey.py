"""What a broker says of itself and of our topics, for the doctor. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import confluent_kafka
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType  # type: ignore[attr-defined]

from stream_mtl.config import Config
from stream_mtl.kafka.reach import connect

_ANSWER_S = 8.0  # a doctor does not wait long


@dataclass(frozen=True, slots=True)
class TopicSurvey:
    """`settings` is empty where the broker does not tell (no rights, or the embedded one)."""

    partitions: int
    replication: int
    settings: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Survey:
    brokers: int
    settings: Mapping[str, str]  # of one broker
    topics: Mapping[str, TopicSurvey]  # of ours, those that exist


def client_versions() -> tuple[str, str]:
    """Of the Python client and of librdkafka."""
    return str(confluent_kafka.version()), str(confluent_kafka.libversion()[0])


def survey(config: Config, names: tuple[str, ...]) -> Survey:
    """Raises BrokerUnavailable when nobody answers, ConfigError for credentials that are refused."""
    admin, metadata = connect(config, "asking the broker", _ANSWER_S)
    there = {
        name: topic
        for name, topic in metadata.topics.items()
        if name in names and topic.error is None
    }
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in sorted(there)]
    resources += [ConfigResource(ResourceType.BROKER, str(n)) for n in sorted(metadata.brokers)[:1]]
    settings = _settings(admin, resources)
    topics = {
        name: TopicSurvey(
            partitions=len(topic.partitions),
            replication=min((len(p.replicas) for p in topic.partitions.values()), default=0),
            settings=settings.get(name, {}),
        )
        for name, topic in there.items()
    }
    broker = next((v for k, v in settings.items() if k not in there), {})
    return Survey(len(metadata.brokers), broker, topics)


def retentions(config: Config, names: tuple[str, ...]) -> dict[str, int]:
    """Retention in ms by topic, -1 for ever; nothing of topics whose settings may not be read."""
    seen = survey(config, names).topics
    return {
        name: int(topic.settings["retention.ms"])
        for name, topic in seen.items()
        if "retention.ms" in topic.settings
    }


def _settings(admin: AdminClient, resources: list[ConfigResource]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for resource, future in admin.describe_configs(resources, request_timeout=_ANSWER_S).items():
        try:
            entries = future.result()
        except KafkaException:
            continue
        found[resource.name] = {
            name: str(entry.value) for name, entry in entries.items() if entry.value is not None
        }
    return found
