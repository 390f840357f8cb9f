"""Brokers for tests: a real Apache Kafka, found in this order, else a loud skip.

1. KAFKA_BOOTSTRAP: somebody's own broker (tests that must kill it are skipped then)
2. jars fetched before
3. Maven

STREAM_MTL_REQUIRE_KAFKA=1 turns the skip into a failure; CI sets it.
"""

from __future__ import annotations

import gc
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.kafka.server import KafkaServer, fetch_jars, require_java
from workers.broker import jars_folder

settings.register_profile("soak", max_examples=20_000, deadline=None)  # --hypothesis-profile=soak
# The same examples at every run, however slow the machine: new ones are looked for by the soak.
_SLOW = [HealthCheck.too_slow]
settings.register_profile("test", deadline=None, derandomize=True, suppress_health_check=_SLOW)
settings.load_profile("test")
ConfigFactory = Callable[..., Config]


@pytest.fixture(scope="session", autouse=True)
def _garbage_as_before() -> Iterator[None]:
    """A trainer in this process freezes what lives; at the end native libraries would call that leaked."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def _without_kafka(why: str) -> None:
    if os.environ.get("STREAM_MTL_REQUIRE_KAFKA") == "1":
        pytest.fail(f"a real Kafka is required here: {why}")
    pytest.skip(f"NO REAL KAFKA, nothing about exactly-once was tested: {why}")


@pytest.fixture(scope="session")
def kafka_jars() -> Path:
    """The folder with the server's jars."""
    try:
        require_java()
        return fetch_jars(jars_folder())
    except ConfigError as error:
        _without_kafka(str(error))
        raise


@pytest.fixture(scope="session")
def bootstrap(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Address of a real broker that all tests of the session share; each uses topics of its own."""
    if given := os.environ.get("KAFKA_BOOTSTRAP"):
        yield given
        return
    jars = request.getfixturevalue("kafka_jars")
    with KafkaServer(tmp_path_factory.mktemp("kafka"), jars=jars) as server:
        yield server.bootstrap


@pytest.fixture
def own_kafka(kafka_jars: Path, tmp_path: Path) -> Iterator[KafkaServer]:
    """A broker of this test alone, to be killed and restarted."""
    with KafkaServer(tmp_path / "kafka", jars=kafka_jars) as server:
        yield server


@pytest.fixture
def config_for(make_config: ConfigFactory) -> ConfigFactory:
    """As `make_config`."""
    return make_config


@pytest.fixture(scope="session")
def make_config() -> ConfigFactory:
    """`make_config(bootstrap, kafka={...}, source={...})`: a config whose app and topics nobody else has."""

    def make(address: str, kafka: dict[str, Any] | None = None, **sections: Any) -> Config:
        app = f"t{uuid.uuid4().hex[:8]}"
        topics = {
            "events": [f"{app}.events"],
            **{
                name: f"{app}.{name}"
                for name in ("items", "control", "acks", "scores", "dlq", "ledger")
            },
        }
        return Config.model_validate(
            {
                "app": app,
                "topics": topics,
                "kafka": {"bootstrap": address, **(kafka or {})},
                **sections,
            }
        )

    return make
