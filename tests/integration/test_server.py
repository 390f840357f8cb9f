"""The launcher of a real Kafka: data survives, no process does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.kafka import server as server_module
from stream_mtl.kafka.server import KafkaServer, fetch_jars, require_java
from stream_mtl.kafka.topics import ensure_topics, identities
from tests.publications import read_published, write_events

_OWNER = """
import sys, time
from pathlib import Path
from stream_mtl.kafka.server import KafkaServer
server = KafkaServer(Path(sys.argv[1]), jars=Path(sys.argv[2]))
server.start()
print(server.pid, flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Does the process run? (One that ended and was not yet collected does not.)"""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not alive(pid):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.integration
def test_topics_and_records_survive_a_kill(
    own_kafka: KafkaServer, config_for: Callable[..., Config]
) -> None:
    """After SIGKILL and start the same address serves the same topics and records."""
    config = config_for(own_kafka.bootstrap)
    ensure_topics(config, retention_ms=-1)
    before = identities(config)
    write_events(config, 100)
    own_kafka.kill()
    own_kafka.start()
    assert identities(config, patience_s=120) == before
    assert len(read_published(config, config.topics.events[0])) == 100


@pytest.mark.integration
def test_stopping_leaves_no_process(kafka_jars: Path, tmp_path: Path) -> None:
    """Neither the broker nor its guard outlives `stop`, and a second stop is harmless."""
    server = KafkaServer(tmp_path, jars=kafka_jars)
    server.start()
    broker, guard = server._process, server._guard
    assert broker is not None
    assert guard is not None
    server.stop()
    server.stop()
    assert (broker.poll() is not None, guard.poll() is not None) == (True, True)
    assert "started" in server.log.read_text()


@pytest.mark.integration
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_the_broker_ends_when_its_owner_is_killed(kafka_jars: Path, tmp_path: Path) -> None:
    """kill -9 of the process that started it takes the broker along."""
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path), str(kafka_jars)],
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        broker = int(owner.stdout.readline())
        assert alive(broker)
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    assert gone_within(broker, 120.0)


@pytest.mark.parametrize("version, found", [(None, "none is on the path"), (11, "found 11")])
def test_an_unfit_java_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, version: int | None, found: str
) -> None:
    """The message says what was found, what is needed and what else would do."""
    monkeypatch.setattr(server_module, "java_version", lambda: version)
    with pytest.raises(ConfigError, match=rf"Java 17 or newer, {found}.*--bootstrap"):
        require_java()


def test_a_missing_maven_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without jars and Maven there is nothing to start."""
    monkeypatch.setattr(server_module, "require_java", lambda: None)
    monkeypatch.setattr(server_module.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="no Maven to fetch them"):
        fetch_jars(tmp_path / "jars")
