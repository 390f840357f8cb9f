"""A Kafka with passwords, certificates and ACLs: the rights of the table are enough, and each is missed by name."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.kafka.ledger_log import read_ledger
from stream_mtl.kafka.publication import Committed, Publication
from stream_mtl.kafka.rights import Right, grant_line, missing, require, rights
from stream_mtl.kafka.sink import TransactionalSink, _Unsettled
from stream_mtl.kafka.source import Source
from stream_mtl.kafka.topics import ensure_topics
from tests.publications import opened, publication, read_published
from tests.secured import CERTIFIED, WORKER, Grant, SecuredKafka, secured_kafka
from workers import cli
from workers.doctor_kafka import examine_broker

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3_600)]
RIGHTS = [str(one) for one in rights(Config(app="a"))]  # their names, for the ids of tests


@pytest.fixture(scope="module")
def kafka(kafka_jars: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    with secured_kafka(tmp_path_factory.mktemp("secured"), kafka_jars) as running:
        yield running


@pytest.fixture
def config(
    kafka: SecuredKafka, config_for: Callable[..., Config], tmp_path: Path
) -> Iterator[Config]:
    """Of a worker with a password whose topics are there; it has no right yet."""
    yield prepared(kafka, config_for, tmp_path, kafka.sasl, kafka.client())
    kafka.revoke()


def prepared(
    kafka: SecuredKafka,
    config_for: Callable[..., Config],
    folder: Path,
    address: str,
    client: dict[str, Any],
    **more: Any,
) -> Config:
    made = config_for(
        address,
        kafka={"client": client, **more},
        state=str(folder / "state"),
        metrics={"address": "off"},
    )
    ensure_topics(by_the_back_door(kafka, made), retention_ms=-1)
    return made


def by_the_back_door(kafka: SecuredKafka, config: Config) -> Config:
    """The same topics, as a super user."""
    open_door = config.kafka.model_copy(update={"bootstrap": kafka.server.bootstrap, "client": {}})
    return config.model_copy(update={"kafka": open_door})


def grants(wanted: Iterable[Right]) -> list[Grant]:
    return [
        Grant(one.resource.replace("-", "_"), one.name, one.operation.upper()) for one in wanted
    ]


def allow(kafka: SecuredKafka, config: Config, but: Right | None = None) -> None:
    """Exactly the table, perhaps but for one line; returns when the broker goes by it."""
    kafka.revoke()
    kafka.grant(grants(one for one in rights(config) if one != but))
    await_missing(config, but)


def withdraw(kafka: SecuredKafka, config: Config, right: Right) -> None:
    """Take one right from a worker at work; returns when the broker goes by it."""
    kafka.take(*grants([right]))
    await_missing(config, right)


def await_missing(config: Config, but: Right | None) -> None:
    told = [] if but is None or but.resource == "transactional-id" else [but]
    deadline = time.monotonic() + 300
    while missing(config) != told:
        assert time.monotonic() < deadline, missing(config)
        time.sleep(0.05)


def written(config: Config, folder: Path) -> str:
    """The config as a file."""
    file = folder / "shop.yaml"
    file.write_text(config.model_dump_json(exclude_unset=True))
    return str(file)


def run_trainer(config: Config, folder: Path, *more: str) -> int:
    return cli.run(
        ["run", "trainer", "--until-idle", "--json", "-c", written(config, folder), *more]
    )


def simulate(kafka: SecuredKafka, config: Config, folder: Path, events: int = 700) -> None:
    file = written(by_the_back_door(kafka, config), folder)
    assert cli.run(["simulate", "--events", str(events), "--seed", "5", "--bootstrap",
                    kafka.server.bootstrap, "-c", file]) == 0  # fmt: skip


def right_of(config: Config, name: str) -> Right:
    """The line of this config's table that stands where `name` stands in the default table."""
    return rights(config)[RIGHTS.index(name)]


def test_the_rights_of_the_table_are_enough(
    kafka: SecuredKafka, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SASL_SSL, SCRAM-SHA-512, and ACLs for nothing else: the worker reads, commits and restarts."""
    simulate(kafka, config, tmp_path)
    allow(kafka, config)
    for _ in range(2):
        capsys.readouterr()
        assert run_trainer(config, tmp_path) == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["events_consumed"] == 700
    published = read_published(by_the_back_door(kafka, config))
    assert len(published) == summary["scores_published"] > 0
    assert missing(config) == []


@pytest.mark.parametrize("name", RIGHTS)
def test_a_missing_right_ends_the_start_and_is_told_with_its_remedy(
    kafka: SecuredKafka,
    config: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    """Resource, operation, principal and the command that grants it; exit 78, no wait. And it was needed."""
    lacking = right_of(config, name)
    allow(kafka, config, but=lacking)
    assert run_trainer(config, tmp_path) == 78
    said = capsys.readouterr().err
    assert f"User:{WORKER} has no right to {lacking}" in said
    assert grant_line(lacking, f"User:{WORKER}", kafka.sasl) in said
    assert said.count("has no right to") == 1


@pytest.mark.parametrize(
    "name", [one for one in RIGHTS if one.startswith("Write") or "group" in one]
)
def test_a_right_that_is_taken_away_while_it_works_is_told(
    kafka: SecuredKafka, config: Config, name: str
) -> None:
    """The commit says which one it is; it does not try for ever. So each of these rights is needed."""
    lacking = right_of(config, name)
    allow(kafka, config)
    sink = TransactionalSink(config)
    sink.open()
    try:
        positions = opened(config).positions
        sink.commit(publication(0, positions))
        withdraw(kafka, config, lacking)
        with pytest.raises(ConfigError, match="has no right to") as caught:
            commit_until_refused(sink, positions)
        assert str(lacking) in str(caught.value)
    finally:
        sink.close()


def test_a_refusal_that_the_client_keeps_to_itself_is_told_too(
    kafka: SecuredKafka, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Met by the next call of the client it is but a transaction to abort, as often as it is tried again."""
    lacking = right_of(config, "Write on topic shop.scores.dlq")
    allow(kafka, config)
    sink = TransactionalSink(config)
    sink.open()
    withdraw(kafka, config, lacking)

    def aborted(publication: Publication) -> int:
        raise _Unsettled("aborted")

    monkeypatch.setattr(sink, "_attempt", aborted)
    with pytest.raises(ConfigError, match=re.escape(f"has no right to {lacking}")):
        sink.commit(publication(0, {}))
    sink.close()


def commit_until_refused(sink: TransactionalSink, positions: Any) -> list[Committed]:
    """Brokers learn of a changed ACL one after the other; of a transactional id nothing can be asked."""
    return [sink.commit(publication(number, positions)) for number in range(1, 200)]


def read_until_refused(source: Source, config: Config) -> None:
    for number in range(200):
        source.next_cut(number)
        read_ledger(config)


@pytest.mark.parametrize("name", [one for one in RIGHTS if one.startswith("Read on topic")])
def test_reading_without_the_right_ends(kafka: SecuredKafka, config: Config, name: str) -> None:
    """A right to read that is taken away is met by the next fetch."""
    lacking = right_of(config, name)
    allow(kafka, config)
    source = opened(config)
    try:
        withdraw(kafka, config, lacking)
        with pytest.raises(ConfigError, match="has no right to") as caught:
            read_until_refused(source, config)
        assert str(lacking) in str(caught.value)
    finally:
        source.close()


def test_the_doctor_names_missing_rights(kafka: SecuredKafka, config: Config) -> None:
    """One finding a right, with the command."""
    lacking = right_of(config, RIGHTS[-2])
    allow(kafka, config, but=lacking)
    found = {one.name: one for one in examine_broker(config)}
    assert found[f"right to {lacking}"].status == "fail"
    assert found[f"right to {lacking}"].remedy == grant_line(lacking, f"User:{WORKER}", kafka.sasl)
    allow(kafka, config)
    assert next(one for one in examine_broker(config) if one.name == "rights").status == "ok"


def test_the_command_that_is_printed_grants_the_right(
    kafka: SecuredKafka, config: Config, kafka_jars: Path, tmp_path: Path
) -> None:
    """As an administrator would run it: the script of Kafka's tools is this class."""
    lacking = right_of(config, RIGHTS[3])
    allow(kafka, config, but=lacking)
    line = grant_line(lacking, f"User:{WORKER}", kafka.server.bootstrap)
    name, *arguments = shlex.split(line)
    assert name == "kafka-acls.sh"
    (tmp_path / "ADMIN.properties").write_text("")
    tool = ["java", "-cp", f"{kafka_jars}/*", "org.apache.kafka.tools.AclCommand"]
    subprocess.run([*tool, *arguments], cwd=tmp_path, check=True, capture_output=True, timeout=600)
    deadline = time.monotonic() + 300
    while missing(config):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_transactions_no_transactional_id_is_needed(
    kafka: SecuredKafka, config: Config, tmp_path: Path
) -> None:
    relaxed = config.kafka.model_copy(update={"delivery": "at_least_once"})
    config = config.model_copy(update={"kafka": relaxed})
    simulate(kafka, config, tmp_path)
    allow(kafka, config)
    assert "transactional-id" not in {one.resource for one in rights(config)}
    assert run_trainer(config, tmp_path) == 0


def test_a_certificate_is_a_name_too(
    kafka: SecuredKafka, config_for: Callable[..., Config], tmp_path: Path
) -> None:
    """mTLS: an encrypted key, the principal from the certificate's name, the same table."""
    config = prepared(kafka, config_for, tmp_path, kafka.ssl, kafka.certified())
    simulate(kafka, config, tmp_path)
    with pytest.raises(ConfigError, match="that the broker reads from this client's certificate"):
        require(config)
    kafka.grant(grants(rights(config)), CERTIFIED)
    assert run_trainer(config, tmp_path) == 0
    kafka.revoke(CERTIFIED)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "password": ({"sasl.password": "no-such-PASSWORD"}, "refuses the login of worker"),
    "user": ({"sasl.username": "nobody"}, "refuses the login of nobody"),
    "mechanism": ({"sasl.mechanism": "PLAIN"}, "supported mechanisms: SCRAM-SHA-512"),
    "ca": ({"ssl.ca.location": "STRANGE"}, "set ssl.ca.location in .* of the CA that signed it"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_login_that_cannot_succeed_ends_the_start(
    kafka: SecuredKafka,
    config: Config,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    """Exit 78 and what to look at, where the client alone would wait as if the broker were away."""
    change, said = WRONG[fault]
    change = {k: str(kafka.strange_ca) if v == "STRANGE" else v for k, v in change.items()}
    client = {**config.kafka.client, **change}
    wrong = config.model_copy(update={"kafka": config.kafka.model_copy(update={"client": client})})
    assert run_trainer(wrong, tmp_path) == 78
    told = capsys.readouterr().err.replace("\n", " ")
    assert re.search(said, told), told
    assert "no-such-PASSWORD" not in told


def test_a_name_that_the_certificate_has_not_is_told_apart_from_a_strange_ca(
    kafka: SecuredKafka, config: Config
) -> None:
    """The client has one sentence for both; the remedies differ."""
    address = kafka.sasl.replace("localhost", "127.0.0.1")
    elsewhere = config.kafka.model_copy(update={"bootstrap": address})
    (finding,) = examine_broker(config.model_copy(update={"kafka": elsewhere}))
    assert "mismatch" in finding.found
    assert "advertised.listeners" in finding.found


def test_a_broker_that_wants_a_certificate_says_so(
    kafka: SecuredKafka, config_for: Callable[..., Config], tmp_path: Path
) -> None:
    client = {"security.protocol": "SSL", "ssl.ca.location": str(kafka.ca)}
    (finding,) = examine_broker(config_for(kafka.ssl, kafka={"client": client}))
    assert "it wants a client certificate; set ssl.certificate.location" in finding.found
