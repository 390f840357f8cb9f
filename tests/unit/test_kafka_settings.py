"""What we hand to librdkafka, and what we never let through."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest

from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.kafka.heartbeat import Heartbeat
from stream_mtl.kafka.ownership import owned
from stream_mtl.kafka.publication import noted_cut, offsets
from stream_mtl.kafka.settings import (
    REFUSED,
    client_settings,
    consumer_settings,
    insecurities,
    open_consumer,
    producer_settings,
    quiet_logger,
    transactional_settings,
)
from stream_mtl.kafka.topics import check_counts, plan
from stream_mtl.kafka.tripwire import Tripwire

SECRET = "hunter2-not-to-be-seen"


def config_with(section: str = "client", **given: object) -> Config:
    keys = {name.replace("__", "."): value for name, value in given.items()}
    return Config.model_validate({"kafka": {"bootstrap": "127.0.0.1:1", section: keys}})


@pytest.mark.parametrize("section", ["client", "consumer", "producer"])
@pytest.mark.parametrize("key", sorted(REFUSED))
def test_keys_that_break_correctness_are_refused_by_name(section: str, key: str) -> None:
    """The message names the section, the key and the reason."""
    config = Config.model_validate({"kafka": {"bootstrap": "h:1", section: {key: "x"}}})
    with pytest.raises(ConfigError, match=rf"kafka\.{section}: {key} may not be set: .+remove it"):
        {**consumer_settings(config), **producer_settings(config)}


def test_a_config_without_a_broker_says_how_to_name_one() -> None:
    """No client ever connects to a default address."""
    with pytest.raises(ConfigError, match=r"kafka\.bootstrap"):
        client_settings(Config())


def test_other_keys_pass_and_the_narrower_section_wins() -> None:
    """A consumer key overrides the one for all clients."""
    config = Config.model_validate(
        {
            "kafka": {
                "bootstrap": "h:1",
                "client": {"socket.timeout.ms": 1_000, "ssl.ca.location": "/ca"},
                "consumer": {"socket.timeout.ms": 2_000},
            }
        }
    )
    assert consumer_settings(config)["socket.timeout.ms"] == 2_000
    assert producer_settings(config)["socket.timeout.ms"] == 1_000
    assert transactional_settings(config)["ssl.ca.location"] == "/ca"


def test_positions_are_never_chosen_by_the_client() -> None:
    """Explicit offsets, committed records, checked and with end events."""
    settings = consumer_settings(config_with())
    assert settings["auto.offset.reset"] == "error"
    assert settings["isolation.level"] == "read_committed"
    assert settings["enable.auto.commit"] is False
    assert settings["enable.partition.eof"] is True
    assert settings["check.crcs"] is True


def test_the_transactional_id_follows_from_the_app() -> None:
    """So that two workers of one app fence each other, and two apps do not."""
    one, other = (
        Config(app="a", kafka={"bootstrap": "h:1"}),
        Config(app="b", kafka={"bootstrap": "h:1"}),
    )
    ids = {transactional_settings(config)["transactional.id"] for config in (one, one, other)}
    assert len(ids) == 2
    assert transactional_settings(one)["partitioner"] == "murmur2_random"


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    """`sasl.password_file` is read and its line end dropped."""
    path = tmp_path / "password"
    path.write_text(SECRET + "\n")
    assert client_settings(config_with(sasl__password_file=str(path)))["sasl.password"] == SECRET
    with pytest.raises(ConfigError, match=r"sasl\.password_file cannot be read"):
        client_settings(config_with(sasl__password_file=str(tmp_path / "absent")))


@pytest.mark.parametrize("content", [b"", b" \n", b"a\0b", b"\xff\xfe"])
def test_a_secret_file_without_a_secret_is_named(tmp_path: Path, content: bytes) -> None:
    """An empty password would look like a wrong one."""
    path = tmp_path / "password"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"kafka\.client: sasl\.password_file: .*password"):
        client_settings(config_with(sasl__password_file=str(path)))


def test_what_is_dangerous_is_said() -> None:
    """SASL without TLS, and TLS that looks at nothing; and nothing is said of what is in order."""
    assert "in the clear" in insecurities(config_with(security__protocol="SASL_PLAINTEXT"))[0]
    unlooked = config_with(enable__ssl__certificate__verification="False")
    assert "anybody may be it" in insecurities(unlooked)[0]
    nameless = config_with("consumer", ssl__endpoint__identification__algorithm="none")
    assert "any holder of a certificate" in insecurities(nameless)[0]
    assert insecurities(config_with(security__protocol="SASL_SSL")) == []


def test_a_config_does_not_show_its_secrets() -> None:
    """Its repr may stand in a traceback or in the report of a test."""
    assert SECRET not in repr(config_with(sasl__password=SECRET))


def test_an_unusable_setting_is_named_without_its_value() -> None:
    """librdkafka repeats the value in its complaint; ours has the key alone."""
    config = config_with(security__protocol=SECRET)
    with pytest.raises(ConfigError, match=r"security\.protocol") as caught:
        open_consumer(consumer_settings(config))
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_unknown_setting_is_named() -> None:
    """A typing error is the user's to see."""
    with pytest.raises(ConfigError, match=r"sokcet\.timeout\.ms"):
        open_consumer(consumer_settings(config_with(sokcet__timeout__ms=1)))


def test_repeated_lines_of_the_client_are_thinned(caplog: pytest.LogCaptureFixture) -> None:
    """Lines that differ only in numbers come once; another kind still comes through."""
    logger = quiet_logger()
    with caplog.at_level(logging.WARNING, logger="stream_mtl.kafka"):
        for port in range(50):
            logger.warning("connect to 127.0.0.1:%d failed", port)
        logger.warning("something else")
    assert len(caplog.messages) == 2


def test_a_coordinator_that_is_just_starting_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """Each first transaction on a new broker meets it; any other failure of the same request is shown."""
    failed = "GETPID [p#producer-2] [thrd:main]: Failed to acquire idempotence PID from broker h:1/1: Broker: %s: retrying"
    with caplog.at_level(logging.WARNING, logger="stream_mtl.kafka"):
        quiet_logger().warning(failed, "Coordinator load in progress")
        assert caplog.messages == []
        quiet_logger().warning(failed, "Coordinator not available")
    assert len(caplog.messages) == 1


def test_notes_are_short_printable_ascii() -> None:
    """Whatever the incarnation is called, the note fits and holds the cut."""
    (one,) = offsets({("t", 0): 5}, 42, "é\0\n" + "x" * 300)
    note = str(one.metadata)
    assert len(note) <= 120
    assert all(" " <= letter <= "~" for letter in note)
    assert noted_cut(note) == 42
    assert noted_cut("somebody else") is None


def test_every_event_partition_has_one_rank() -> None:
    """Ranks cover the event partitions without overlap; items and control are everybody's."""
    config = Config()
    counts = {config.topics.events[0]: 5, config.topics.items: 2, config.topics.control: 1}
    parts = [owned(config, counts, rank, 2) for rank in range(2)]
    events = [place for own in parts for place in own if place[0] == config.topics.events[0]]
    assert sorted(events) == [(config.topics.events[0], number) for number in range(5)]
    assert all(
        (config.topics.items, 1) in own and (config.topics.control, 0) in own for own in parts
    )


def test_partition_counts_must_fit() -> None:
    """Event topics are co-partitioned, control and ledger have one partition."""
    config = Config.model_validate({"topics": {"events": ["a", "b"]}})
    good = {name: one.partitions for name, one in plan(config).items()}
    check_counts(config, good)
    with pytest.raises(ConfigError, match="equal partition counts"):
        check_counts(config, {**good, "b": 3})
    with pytest.raises(ConfigError, match="must have one partition"):
        check_counts(config, {**good, config.topics.ledger: 2})


def test_topics_are_planned_so_that_recovery_finds_its_records() -> None:
    """The ledger is kept 90 days and never compacted; items are not compacted within the horizon."""
    config = Config()
    planned = plan(config)
    ledger = planned[config.topics.ledger]
    assert (ledger.partitions, ledger.settings["cleanup.policy"]) == (1, "delete")
    assert int(ledger.settings["retention.ms"]) >= 90 * 86_400_000
    assert int(planned[config.topics.items].settings["min.compaction.lag.ms"]) >= 86_400_000
    assert planned[config.topics.scores].settings["cleanup.policy"] == "compact"
    assert planned[config.topics.events[0]].settings["cleanup.policy"] == "delete"
    # a replayed history has old record times, off which Kafka reads the lag: nothing may be compacted
    replayed = plan(config, retention_ms=-1)[config.topics.items].settings
    assert replayed == {"cleanup.policy": "delete", "retention.ms": "-1"}


def _statistics(**signs: int) -> str:
    return json.dumps({"brokers": {"b": signs}})


def test_a_time_out_or_disconnect_trips_the_wire() -> None:
    """Rising counters and client errors trip it; what came before it was armed does not, retries neither."""
    wire = Tripwire()
    wire._on_error("broker away while starting")
    wire.arm()
    wire._on_statistics(_statistics(req_timeouts=3, disconnects=1, txretries=0))
    wire._on_statistics(_statistics(req_timeouts=3, disconnects=1, txretries=9))
    assert wire.reason is None
    wire._on_statistics(_statistics(req_timeouts=4, disconnects=1, txretries=9))
    assert wire.reason == "disconnect"
    wire.slow()
    assert wire.reason == "disconnect"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("FAIL [p] [thrd:TxnCoordinator]: Disconnected", "disconnect"),
        ("REQTMOUT [p] [thrd:TxnCoordinator]: Timed out 1 in-flight", "disconnect"),
        ("GETPID [p] Coordinator load in progress: retrying", None),
    ],
)
def test_the_clients_log_trips_the_wire_though_nobody_sees_the_line(
    line: str, reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A lost coordinator connection is told at INFO, in the log alone; the wire hears it, the console does not."""
    wire = Tripwire()
    wire.arm()
    with caplog.at_level(logging.WARNING, "stream_mtl.kafka"):
        facility, _, text = line.partition(" ")
        quiet_logger(wire.hear).log(logging.INFO, "%s %s", facility, text)
    assert wire.reason == reason
    assert caplog.records == []


def test_a_short_step_is_not_disturbed_by_the_heartbeat() -> None:
    """Pausing throws prefetched records away, so it waits for a step that is really long."""
    calls: list[str] = []
    with Heartbeat(lambda: calls.append("let go"), lambda: None, lambda: None, first_s=600.0):
        pass
    assert calls == []


def test_a_long_step_is_polled_and_taken_up() -> None:
    """Let go once, poll until the step ends, take up."""
    calls: list[str] = []
    beat = Heartbeat(
        lambda: calls.append("let go"),
        lambda: calls.append("poll"),
        lambda: calls.append("take up"),
        first_s=0.0,
        every_s=0.001,
    )
    with beat:
        while calls.count("poll") < 3:
            time.sleep(0.001)
    assert calls[0] == "let go"
    assert calls[-1] == "take up"
    assert set(calls[1:-1]) == {"poll"}


def test_an_error_of_the_heartbeat_reaches_the_caller() -> None:
    """A lost position met during a long step is not swallowed by the thread."""
    polled: list[int] = []

    def fail() -> None:
        polled.append(1)
        raise ConfigError("lost")

    beat = Heartbeat(lambda: None, fail, lambda: None, first_s=0.0)

    def step() -> None:
        with beat:
            while not polled:
                time.sleep(0.001)

    with pytest.raises(ConfigError, match="lost"):
        step()
