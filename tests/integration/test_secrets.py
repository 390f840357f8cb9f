"""Secrets are planted wherever an operator may put them, and nothing that a run leaves holds one of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from stream_mtl.config import Config
from stream_mtl.kafka.rights import rights
from stream_mtl.kafka.settings import quiet_logger
from tests.integration.test_secured import grants, prepared, simulate
from tests.secured import KEY_PASSWORD, PASSWORD, SecuredKafka, secured_kafka
from workers import cli
from workers.http_access import line_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3_600)]
WRONG, BUCKET, SCRAPER = "wonderful-WRONG-one", "wonderful-BUCKET-key", "wonderful-SCRAPER-word"
SECRETS = (PASSWORD, KEY_PASSWORD, WRONG, BUCKET, SCRAPER)


def hits(places: Iterable[tuple[str, bytes]]) -> list[str]:
    """Where one of the secrets stands, as it is or as UTF-16 or base64."""
    import base64

    forms = [form for one in SECRETS for form in (
        one.encode(), one.encode("utf-16-le"), base64.b64encode(one.encode()).rstrip(b"=")[:-1],
    )]  # fmt: skip
    return [where for where, raw in places if any(form in raw for form in forms)]


def files_under(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield str(path), path.read_bytes()
        yield f"name of {path}", str(path).encode()


def records_of(kafka: SecuredKafka) -> Iterator[tuple[str, bytes]]:
    """Every record of every topic, those of the broker itself and of aborted transactions included."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.server.bootstrap,
            "group.id": "search",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_uncommitted",
            "enable.partition.eof": True,
        },
        logger=quiet_logger(),
    )
    topics = consumer.list_topics(timeout=10).topics
    places = [(name, number) for name, topic in topics.items() for number in topic.partitions]
    consumer.assign([TopicPartition(*place, 0) for place in places])
    left = set(places)
    while left:
        for message in consumer.consume(1_000, 0.5):
            place = (message.topic(), message.partition())
            if message.error() is not None:
                left.discard(place)
                continue
            headers = b"".join(
                name.encode() + (raw or b"") for name, raw in message.headers() or ()
            )
            raw = (message.key() or b"") + b"\n" + (message.value() or b"") + b"\n" + headers
            yield f"{place} {message.offset()}", raw
    consumer.close()


@pytest.fixture(scope="module")
def kafka(kafka_jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with secured_kafka(tmp_path_factory.mktemp("secrets"), kafka_jars) as running:
        yield running


def test_no_secret_is_left_anywhere(
    kafka: SecuredKafka,
    config_for: Callable[..., Config],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A good run, a refused login, faults of the config; with --debug; logs, metrics, files, topics."""
    kept, left = tmp_path / "kept", tmp_path / "left"  # the operator's files, and the worker's
    kept.mkdir()
    left.mkdir()
    (kept / "password").write_text(PASSWORD + "\n")
    (kept / "users").write_text(line_for("prometheus", SCRAPER.encode()) + "\n")
    client = kafka.client(ssl__certificate__location=str(kafka.certificate))
    client = {**client, "ssl.key.location": str(kafka.key), "debug": "security,broker,conf"}
    del client["sasl.password"]
    client["sasl.password_file"] = str(kept / "password")
    config = prepared(
        kafka, config_for, left, kafka.sasl, {**client, "ssl.key.password": KEY_PASSWORD}
    )
    simulate(kafka, config, kept)
    kafka.grant(grants(rights(config)))
    listening = config.metrics.model_copy(
        update={"address": "127.0.0.1:0", "basic_auth_file": str(kept / "users")}
    )
    by_environment = config.kafka.model_copy(update={"client": client})
    file = kept / "shop.yaml"
    told = config.model_copy(update={"metrics": listening, "kafka": by_environment})
    file.write_text(told.model_dump_json(exclude_unset=True))
    environment = {
        "SMTL_KAFKA__CLIENT__SSL__KEY__PASSWORD": KEY_PASSWORD,
        "AWS_SECRET_ACCESS_KEY": BUCKET,
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    places = [*one_run(file, left), ("stdout and stderr", b"")]
    capfd.readouterr()
    shown = ["-c", str(file)]
    for arguments, code in (
        (["config", "show", *shown], 0),
        (["config", "show", "--json", *shown], 0),
        (["check", "--debug", *shown], 0),
        (["ckpt", "ls", "--json", *shown], 0),
        (["run", "trainer", "--debug", *shown, "--set", f"kafka.client.sasl.password={WRONG}"], 78),
        (["run", "trainer", "--debug", *shown, "--set", f'kafka.client={{"sasl.password": "{WRONG}"'], 78),
        (["check", "--debug", *shown, "--set", f'kafka={{"client": ["{WRONG}"]}}'], 78),
        (["check", "--debug", *shown, "--set", f"kafka.client.security.protocol={WRONG}"], 78),
        (["check", "--debug", "-c", broken(kept, f'kafka: {{client: {{"sasl.password": "{WRONG}", x}}}}\n- ')], 78),
        (["check", "--debug", "-c", broken(kept, f'kafka: {{client: {{"sasl.password": ["{WRONG}"]}}}}')], 78),
    ):  # fmt: skip
        assert cli.run(arguments) == code, arguments
        out, err = capfd.readouterr()
        places.append((" ".join(arguments[:3]), (out + err).encode()))
    places += [*files_under(left), *records_of(kafka)]
    assert hits(files_under(kept)), "the search finds what is there"
    assert len(places) > 100
    assert hits(places) == []
    kafka.revoke()


def broken(folder: Path, text: str) -> str:
    file = folder / f"broken-{len(text)}.yaml"
    file.write_text(text)
    return str(file)


def one_run(file: Path, cwd: Path) -> list[tuple[str, bytes]]:
    """A worker in a process of its own, asked for its metrics, stopped in order; all that it said."""
    said = cwd / "stderr"
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    with said.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", "run", "trainer", "--debug", "-c", str(file)],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
        try:
            url = awaited(said, rb"metrics: (\S+)/metrics")
            until_committed(url)
            numbers = scraped(url)
        finally:
            process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said.read_text()
    assert b"stream_mtl_commits_total" in numbers
    return [("stdout", out), ("stderr", said.read_bytes()), ("metrics", numbers)]


def awaited(file: Path, pattern: bytes) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if found := re.search(pattern, file.read_bytes()):
            return found.group(1).decode()
        time.sleep(0.1)
    pytest.fail(f"never said {pattern!r}: {file.read_text()}")


def scraped(url: str) -> bytes:
    import base64

    request = urllib.request.Request(f"{url}/metrics")
    word = base64.b64encode(f"prometheus:{SCRAPER}".encode()).decode()
    request.add_header("Authorization", f"Basic {word}")
    with urllib.request.urlopen(request, timeout=20) as answer:
        body: bytes = answer.read()
    return body


def until_committed(url: str) -> None:
    """Wait until the worker reports its first commit."""
    deadline = time.monotonic() + 120
    while not re.search(rb"^stream_mtl_commits_total\S* [1-9]", scraped(url), re.M):
        assert time.monotonic() < deadline
        time.sleep(0.1)
