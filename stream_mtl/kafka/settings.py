"""Our config as librdkafka's: what is passed through, what is refused, and what we always set."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from stream_mtl.config import Config
from stream_mtl.errors import ConfigError

Setting = str | int | float | bool
Settings = dict[str, Any]
Listener = Callable[[str], None]  # one line of librdkafka's log, `FACILITY [client] text`

REFUSED: Mapping[str, str] = {
    "auto.offset.reset": "a missing position is a decision (source.on_gap), never a jump",
    "bootstrap.servers": "use kafka.bootstrap",
    "enable.auto.commit": "offsets are committed with the cut, or events are lost",
    "enable.auto.offset.store": "offsets are committed with the cut, or events are lost",
    "enable.idempotence": "without it a retry doubles or reorders records",
    "enable.partition.eof": "the end of a partition is known by this event alone",
    "group.id": "it follows from app",
    "isolation.level": "aborted records must stay invisible",
    "plugin.library.paths": "it loads code into the worker",
    "sasl.kerberos.kinit.cmd": "it runs a shell; keep the ticket fresh beside the worker",
    "ssl.engine.location": "it loads code into the worker",
    "test.mock.num.brokers": "it would give every client a cluster of its own",
    "transactional.id": "it follows from app, and fences a second worker",
}
# Of two batches under way to a partition that only just comes up, the first can get lost (see `receipts`).
ONE_REQUEST: Mapping[str, Setting] = {"max.in.flight.requests.per.connection": 1}
_THIN_S = 30.0  # librdkafka writes 20 lines a second while a broker is away
# On a broker that has just started; should it stay so, what was asked for fails and says why.
_PASSING = re.compile(r"Coordinator load in progress: retrying$")


def group_id(config: Config) -> str:
    """The consumer group under which offsets are committed."""
    return f"stream-mtl.{config.app}"


def transactional_id(config: Config) -> str:
    """A fixed function of the app: two workers of one app fence each other."""
    return f"stream-mtl.{config.app}"


def client_settings(config: Config) -> Settings:
    """What every client gets. Raises ConfigError when there is no broker or a key is refused."""
    if not config.kafka.bootstrap:
        raise ConfigError("no broker given; set kafka.bootstrap (--bootstrap HOST:PORT)")
    return {
        "client.id": f"stream-mtl.{config.app}",
        "reconnect.backoff.max.ms": 2_000,
        **_passed("kafka.client", config.kafka.client),
        "bootstrap.servers": config.kafka.bootstrap,
    }


def consumer_settings(config: Config) -> Settings:
    """Of every consumer: explicit positions, committed records only, checked, ends announced."""
    return {
        "fetch.wait.max.ms": 100,
        # In a backlog all partitions are read abreast, by time; of each only so much at once, or the first
        # ones fill the buffers before the last one shows.
        "max.partition.fetch.bytes": 262_144,
        # A connection that a router forgot looks open: a minute, the client's default, would be a minute's lag.
        "socket.timeout.ms": 15_000,
        **client_settings(config),
        **_passed("kafka.consumer", config.kafka.consumer),
        "group.id": group_id(config),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "isolation.level": "read_committed",
        "check.crcs": True,
        "enable.partition.eof": True,
    }


def producer_settings(config: Config) -> Settings:
    """Of every producer: idempotent, Java's partitioner, no lingering (a cut is sent as a whole)."""
    return {
        "linger.ms": 0,
        # A transaction right after another waits for the first one's markers: 10 ms instead of 100
        "retry.backoff.ms": 10,
        "partitioner": "murmur2_random",
        "message.max.bytes": 2_000_000,  # a dead letter is the record and its context
        **client_settings(config),
        **_passed("kafka.producer", config.kafka.producer),
        "enable.idempotence": True,
    }


def transactional_settings(config: Config) -> Settings:
    """Of the one producer that commits cuts. The other time-outs follow from the transaction's."""
    return {
        **producer_settings(config),
        "transactional.id": transactional_id(config),
        "transaction.timeout.ms": config.kafka.transaction_timeout_ms,
    }


def replay_settings(config: Config) -> Settings:
    """Of the producer of `dlq replay`: fenced against a second replay, and takes what a topic once took."""
    return {
        **transactional_settings(config),
        "transactional.id": f"{transactional_id(config)}.dlq-replay",
        "message.max.bytes": 100_000_000,
        **ONE_REQUEST,
    }


def open_consumer(settings: Settings) -> Consumer:
    consumer: Consumer = _open(Consumer, settings)
    return consumer


def open_producer(settings: Settings, listen: Listener | None = None) -> Producer:
    producer: Producer = _open(Producer, settings, listen)
    return producer


def open_admin(settings: Settings) -> AdminClient:
    admin: AdminClient = _open(AdminClient, settings)
    return admin


def quiet_logger(listen: Listener | None = None) -> logging.Logger:
    """A logger for librdkafka's lines, under `stream_mtl.kafka`, each kind at most twice a minute.

    `listen` is given every line from INFO on, also those that are shown to nobody.
    """
    logger = logging.Logger("stream_mtl.kafka.librdkafka")
    logger.parent = logging.getLogger("stream_mtl.kafka")
    if listen is not None:
        logger.setLevel(logging.INFO)
        logger.addFilter(_Heard(listen, logger.parent))
    logger.addFilter(_Thin())
    return logger


class _Heard(logging.Filter):
    """Tells each line, and lets through what the parent would have let through."""

    def __init__(self, listen: Listener, parent: logging.Logger) -> None:
        super().__init__()
        self._listen, self._parent = listen, parent

    def filter(self, record: logging.LogRecord) -> bool:
        self._listen(record.getMessage())
        return record.levelno >= self._parent.getEffectiveLevel()


class _Thin(logging.Filter):
    """Lets a line through when none that differs from it only in numbers passed lately, and it is no passing matter."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if _PASSING.search(record.getMessage()):
            return False
        kind = re.sub(r"\d+", "#", record.getMessage())
        now = time.monotonic()
        if now - self._last.get(kind, -_THIN_S) < _THIN_S:
            return False
        if len(self._last) >= 1_000:
            self._last.clear()
        self._last[kind] = now
        return True


def _passed(section: str, given: Mapping[str, Setting]) -> Settings:
    """The user's keys, checked; `<key>_file` names a file that holds the value (a secret)."""
    passed: Settings = {}
    for key, value in given.items():
        name = key.removesuffix("_file")
        if name in REFUSED:
            raise ConfigError(f"{section}: {name} may not be set: {REFUSED[name]}; remove it")
        passed[name] = value if name == key else _secret(section, key, str(value))
    return passed


def insecurities(config: Config) -> list[str]:
    """What is allowed and dangerous, in words; to be said once a run."""
    said = []
    for section in ("client", "consumer", "producer"):
        given = getattr(config.kafka, section)
        values = {key: str(value).lower() for key, value in given.items()}
        if values.get("security.protocol") == "sasl_plaintext":
            said.append(
                f"kafka.{section}: SASL without TLS sends what it reads and writes, and with PLAIN the password,"
                " in the clear; use security.protocol = SASL_SSL"
            )
        if values.get("enable.ssl.certificate.verification") == "false":
            said.append(
                f"kafka.{section}: the broker's certificate is not looked at; anybody may be it"
            )
        elif values.get("ssl.endpoint.identification.algorithm") == "none":
            said.append(
                f"kafka.{section}: the broker's name is not looked at; any holder of a certificate may be it"
            )
    return said


def _secret(section: str, key: str, path: str) -> str:
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{section}: {key} cannot be read: {error.strerror}: {path}") from None
    except ValueError:
        raise ConfigError(f"{section}: {key}: {path} is not UTF-8 text") from None
    if not secret or "\0" in secret:
        raise ConfigError(f"{section}: {key}: expected the value in {path}, found nothing usable")
    return secret


def _open(kind: Any, settings: Settings, listen: Listener | None = None) -> Any:
    """A client. librdkafka's complaint is cut to the key: it repeats values, which may be secret."""
    try:
        return kind(settings, logger=quiet_logger(listen))
    except KafkaException as error:
        said = error.args[0].str()
        named = re.search(r'property:? "([^"]+)"', said)
        # Without a quoted key the sentence is about how settings fit together, and holds no value.
        what = f"setting {named.group(1)} is unknown or has an unusable value" if named else said
        raise ConfigError(f"kafka: {what}; see librdkafka's CONFIGURATION.md") from None
