"""The doctor finds seeded mistakes, each with its remedy."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from stream_mtl.config import Config
from stream_mtl.cut import Cut, CutResult
from stream_mtl.kafka.survey import Survey, TopicSurvey
from stream_mtl.kafka.topics import plan
from stream_mtl.ledger import Context, decode, encode_cut
from workers.doctor import Finding, examine, exit_code
from workers.doctor_kafka import continuation, judge

CONFIG = Config.model_validate({"topics": {"events": ["a", "b"]}, "kafka": {"bootstrap": "b:1"}})


def _healthy() -> dict[str, TopicSurvey]:
    """What the broker says of topics as we create them."""
    return {
        name: TopicSurvey(one.partitions, 1, one.settings) for name, one in plan(CONFIG).items()
    }


def _judge(
    config: Config = CONFIG, broker: dict[str, str] | None = None, **topics: TopicSurvey | None
) -> list[Finding]:
    found = {**_healthy(), **{name.replace("__", "."): topic for name, topic in topics.items()}}
    there = {name: topic for name, topic in found.items() if topic is not None}
    return [f for f in judge(config, Survey(1, broker or {}, there)) if f.status != "ok"]


def test_topics_as_we_create_them_are_in_order() -> None:
    """No finding: a doctor who always finds something is not asked again."""
    assert _judge() == []


@pytest.mark.parametrize(
    "topics,broker,name,status,remedy",
    [
        ({"b": TopicSurvey(3, 1, {"cleanup.policy": "delete", "retention.ms": "1"})}, {}, "co-partitioning", "fail", "one partition count"),
        ({"shop__scores": TopicSurvey(4, 1, {"cleanup.policy": "delete"})}, {}, "topic shop.scores", "fail", "set compact"),
        ({"shop__scores__ledger": TopicSurvey(1, 1, {"cleanup.policy": "compact"})}, {}, "topic shop.scores.ledger", "fail", "set delete"),
        ({"shop__scores__ledger": TopicSurvey(2, 1, {"cleanup.policy": "delete"})}, {}, "topic shop.scores.ledger", "fail", "one partition"),
        ({"shop__control": TopicSurvey(2, 1, {"cleanup.policy": "delete"})}, {}, "topic shop.control", "fail", "one partition"),
        ({"a": TopicSurvey(4, 1, {"cleanup.policy": "compact"})}, {}, "topic a", "fail", "set delete"),
        ({"a": TopicSurvey(4, 1, {"cleanup.policy": "delete", "retention.ms": "-1"})}, {}, "retention of a", "warn", "personal data"),
        ({"a": TopicSurvey(4, 1, {"cleanup.policy": "delete", "retention.ms": "3600000"})}, {}, "retention of a", "warn", "finds its events gone"),
        ({"shop__items": TopicSurvey(4, 1, {"cleanup.policy": "compact"})}, {}, "compaction of shop.items", "warn", "min.compaction.lag.ms=604800000"),
        ({"shop__scores__ledger": TopicSurvey(1, 1, {"cleanup.policy": "delete", "retention.ms": "86400000"})}, {}, "retention of shop.scores.ledger", "warn", "90 days"),
        ({"a": TopicSurvey(4, 3, {"cleanup.policy": "delete", "retention.ms": "1", "min.insync.replicas": "1"})}, {}, "min.insync.replicas of a", "warn", "set 2"),
        ({"shop__items": None}, {}, "topics", "warn", "creates them"),
        ({"shop__dlq": None, "a": TopicSurvey(4, 1, {})}, {}, "topic a", "warn", "DescribeConfigs"),
        ({}, {"transaction.max.timeout.ms": "5000"}, "transaction timeout", "fail", "5000"),
    ],
)  # fmt: skip
def test_a_seeded_mistake_is_found_with_its_remedy(
    topics: dict[str, TopicSurvey | None],
    broker: dict[str, str],
    name: str,
    status: str,
    remedy: str,
) -> None:
    found = {finding.name: finding for finding in _judge(CONFIG, broker, **topics)}
    assert found[name].status == status
    assert remedy in found[name].remedy


def test_a_missing_topic_that_may_not_be_created_fails() -> None:
    config = CONFIG.model_copy(
        update={"topics": CONFIG.topics.model_copy(update={"create": False})}
    )
    (finding,) = _judge(config, shop__items=None)
    assert (finding.name, finding.status) == ("topics", "fail")


def test_at_least_once_is_said() -> None:
    config = CONFIG.model_copy(
        update={"kafka": CONFIG.kafka.model_copy(update={"delivery": "at_least_once"})}
    )
    (finding,) = _judge(config)
    assert "no fencing" in finding.found


@pytest.mark.parametrize(
    "failed,code", [([], 0), (["broker"], 69), (["disk"], 78), (["broker", "config"], 78)]
)
def test_the_exit_code_tells_a_broker_that_is_away_from_a_mistake(
    failed: list[str], code: int
) -> None:
    findings = [Finding("python", "ok", ""), Finding("disk", "warn", "")]
    assert exit_code([*findings, *[Finding(name, "fail", "") for name in failed]]) == code


def test_this_machine_is_examined_without_a_broker(tmp_path: Path) -> None:
    """A state folder that cannot be and an encoder that is none are found; nothing is created."""
    config = Config.model_validate(
        {"state": "/proc/none", "text": {"model": str(tmp_path / "none")}, "model": {"name": "m"}}
    )
    found = {finding.name: finding for finding in examine(config)}
    assert found["python"].status == "ok"
    assert found["state folder"].status == "fail"
    assert found["encoder"].status == found["model"].status == "fail"
    assert found["broker"].status == "warn"
    assert exit_code(list(found.values())) == 78
    assert all(re.search(r"\w", f.remedy) for f in found.values() if f.status != "ok")


def test_a_broker_that_does_not_answer_is_exit_69(tmp_path: Path) -> None:
    config = Config.model_validate({"state": str(tmp_path), "kafka": {"bootstrap": "127.0.0.1:1"}})
    findings = examine(config)
    assert [f.name for f in findings if f.status == "fail"] == ["broker"]
    assert exit_code(findings) == 69


def test_whether_a_start_would_go_on_is_told_before_the_old_worker_is_stopped() -> None:
    """The ledger's end against this release, these settings and this machine: as a start would judge it."""
    wrote = Context(
        app="shop",
        lineage="60000001",
        instance="0123456789abcdef",
        topic_ids={},
        config_hash="a",
        code="golden",
        environment={"torch": "2", "arithmetic": "b"},
    )
    raw = encode_cut(wrote, "", Cut(3, (), (), 0), CutResult(3, (), (), {}, "", "", 0))
    last = decode(raw, 7)
    moving = CONFIG.model_copy(update={"other_environment": "new_lineage"})
    elsewhere = replace(wrote, environment={"torch": "2", "arithmetic": "c"})
    assert continuation(CONFIG, last, wrote).status == "ok"
    refused = continuation(CONFIG, last, elsewhere)
    assert refused.status == "fail"
    assert "environment arithmetic is 'c' here, 'b' there" in refused.found
    assert continuation(moving, last, elsewhere).status == "warn"
    changed = replace(elsewhere, config_hash="z")
    found = continuation(moving, last, changed, "seed was 0, is 5")
    assert found.status == "fail"
    assert "seed was 0, is 5" in found.found
