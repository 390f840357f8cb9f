"""The doctor's look at the broker and at our topics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from stream_mtl.config import Config
from stream_mtl.errors import BrokerUnavailable, ForeignState, StreamMtlError
from stream_mtl.kafka.ledger_log import last_record
from stream_mtl.kafka.reach import principal
from stream_mtl.kafka.rights import Right, grant_line, missing
from stream_mtl.kafka.settings import insecurities
from stream_mtl.kafka.survey import Survey, TopicSurvey, survey
from stream_mtl.kafka.topics import COMPACTION_LAG_MS, input_topics, plan
from stream_mtl.kafka.unstable import require_visible
from stream_mtl.ledger import Context, Entry, decode
from stream_mtl.recovery import differences, refuse_foreign
from workers.context import begins_by_itself, context_of
from workers.doctor import Finding
from workers.known_config import changed_keys

_DAY_MS = 86_400_000
_LEDGER_DAYS, _INPUT_DAYS = 90, 30
_OUTAGE_DAYS = 3  # a long weekend


def examine_broker(config: Config) -> list[Finding]:
    """What the broker says; one failed finding `broker` when it does not answer."""
    try:
        seen = survey(config, tuple(plan(config)))
        lacking = missing(config)
    except BrokerUnavailable as error:
        return [
            Finding(
                "broker",
                "fail",
                str(error),
                "start it (`stream-mtl broker up`), or correct kafka.bootstrap",
            )
        ]
    except StreamMtlError as error:
        return [Finding("broker access", "fail", str(error), "correct [kafka.client] or the ACLs")]
    findings = [*judge(config, seen), *_rights(config, lacking), *_security(config)]
    if config.topics.ledger in seen.topics:
        findings.append(_ledger(config))
    names = config.topics
    if {names.ledger, names.scores, names.dlq, names.acks} <= set(seen.topics):
        findings.append(_outputs(config))
    return findings


def _outputs(config: Config) -> Finding:
    """A worker at work moves on within the look, and is not in the way."""
    try:
        require_visible(config)
    except StreamMtlError as error:
        return Finding("outputs", "fail", str(error), "see the message")
    return Finding("outputs", "ok", "what is committed can be read")


def _ledger(config: Config) -> Finding:
    try:
        newest = last_record(config)
        last = decode(newest[1], newest[0]) if newest else None
    except StreamMtlError as error:
        return Finding("ledger", "fail", str(error), "see the message")
    if last is None:
        return Finding("ledger", "ok", "empty: a first start")
    hint = "; ".join(changed_keys(Path(config.state), config)[:5])
    return continuation(config, last, context_of(config, last.record, "check"), hint)


def continuation(config: Config, last: Entry, ours: Context, hint: str = "") -> Finding:
    """Whether a worker with these settings, this release and on this machine would go on where the ledger ends."""
    where = f"ends with cut {last.cut} of lineage {last.record.lineage}"
    begins = begins_by_itself(config, last.record, ours)
    try:
        refuse_foreign(last.record, ours, new_lineage=begins, hint=hint)
    except ForeignState as error:
        return Finding("ledger", "fail", f"{where}; {error}", "see the message")
    if begins:
        said = "; ".join(differences(last.record, ours))
        remedy = "nothing: a start begins a new lineage"
        return Finding("ledger", "warn", f"{where}; {said}", remedy)
    return Finding("ledger", "ok", f"{where}; a start goes on from there")


def _security(config: Config) -> Iterator[Finding]:
    for said in insecurities(config):
        where, _, what = said.partition(": ")
        yield Finding(f"security of {where}", "warn", what, "see docs/security.md")


def _rights(config: Config, lacking: list[Right]) -> Iterator[Finding]:
    who = principal(config)
    for one in lacking:
        remedy = grant_line(one, who, config.kafka.bootstrap)
        yield Finding(f"right to {one}", "fail", f"{who} has it not ({one.why})", remedy)
    if not lacking:
        found = (
            f"{who} has those on topics and group; that on the transactional id shows at a start"
        )
        yield Finding("rights", "ok", found)


def judge(config: Config, seen: Survey) -> Iterator[Finding]:
    """Findings on what a broker said; a pure function, so that every mistake can be tested."""
    yield Finding("broker", "ok", f"{config.kafka.bootstrap} answers, {seen.brokers} broker(s)")
    yield from _present(config, seen)
    yield from _counts(config, seen)
    yield from _policies(config, seen)
    yield from _transactions(config, seen)


def _present(config: Config, seen: Survey) -> Iterator[Finding]:
    missing = [name for name in plan(config) if name not in seen.topics]
    if not missing:
        yield Finding("topics", "ok", f"all {len(seen.topics)} are there")
    elif config.topics.create:
        yield Finding(
            "topics",
            "warn",
            f"missing: {', '.join(missing)}",
            "`run trainer` creates them if ACLs allow it",
        )
    else:
        yield Finding(
            "topics",
            "fail",
            f"missing: {', '.join(missing)}",
            "create them, or set topics.create = true",
        )


def _counts(config: Config, seen: Survey) -> Iterator[Finding]:
    counts = {n: seen.topics[n].partitions for n in config.topics.events if n in seen.topics}
    if len(set(counts.values())) > 1:
        remedy = "give all event topics one partition count: a user must be in one partition number"
        yield Finding("co-partitioning", "fail", str(counts), remedy)
    elif counts:
        yield Finding("co-partitioning", "ok", str(counts))
    for name in (config.topics.ledger, config.topics.control):
        topic = seen.topics.get(name)
        if topic is not None and topic.partitions != 1:
            remedy = "recreate it with one partition: its order is its meaning"
            yield Finding(f"topic {name}", "fail", f"{topic.partitions} partitions", remedy)


def _policies(config: Config, seen: Survey) -> Iterator[Finding]:
    names = config.topics
    for name, topic in seen.topics.items():
        if not topic.settings:
            yield Finding(
                f"topic {name}", "warn", "settings unknown", "allow DescribeConfigs to this client"
            )
            continue
        if name == names.scores:
            yield _policy(name, topic, "compact", "stale lists of a user are kept for ever")
        elif name == names.ledger:
            yield _policy(name, topic, "delete", "compaction would break the ledger's chain")
            yield _retention(name, topic, at_least=(_LEDGER_DAYS, "the ledger is the audit trail"))
        elif name in names.events:
            yield _policy(
                name, topic, "delete", "compaction would remove events that a replay needs"
            )
            yield _retention(
                name,
                topic,
                at_least=(_OUTAGE_DAYS, "a worker that is down for longer finds its events gone"),
                at_most=(_INPUT_DAYS, "events are personal data"),
            )
        elif name == names.items and topic.settings.get("cleanup.policy") == "compact":
            yield _lag(name, topic)
        if name in (names.ledger, *input_topics(config)) and topic.replication >= 3:
            yield _in_sync(name, topic)


def _policy(name: str, topic: TopicSurvey, wanted: str, why: str) -> Finding:
    found = topic.settings.get("cleanup.policy", "?")
    if found == wanted:
        return Finding(f"topic {name}", "ok", f"cleanup.policy={found}")
    return Finding(f"topic {name}", "fail", f"cleanup.policy={found}", f"set {wanted}: {why}")


def _lag(name: str, topic: TopicSurvey) -> Finding:
    """A restart reads again what it read since its checkpoint."""
    found = int(topic.settings.get("min.compaction.lag.ms", "0"))
    title, said = f"compaction of {name}", f"after {found / _DAY_MS:.1f} days at the earliest"
    if found >= _OUTAGE_DAYS * _DAY_MS:
        return Finding(title, "ok", said)
    remedy = f"set min.compaction.lag.ms={COMPACTION_LAG_MS}: a restart must find the records that it once read"
    return Finding(title, "warn", said, remedy)


def _retention(
    name: str,
    topic: TopicSurvey,
    at_least: tuple[int, str] | None = None,
    at_most: tuple[int, str] | None = None,
) -> Finding:
    """Bounds in days, each with its reason."""
    found = int(topic.settings.get("retention.ms", "-1"))
    title, said = f"retention of {name}", "for ever" if found < 0 else f"{found / _DAY_MS:.1f} days"
    if at_least is not None and 0 <= found < at_least[0] * _DAY_MS:
        return Finding(title, "warn", said, f"at least {at_least[0]} days: {at_least[1]}")
    if at_most is not None and (found < 0 or found > at_most[0] * _DAY_MS):
        return Finding(title, "warn", said, f"at most {at_most[0]} days: {at_most[1]}")
    return Finding(title, "ok", said)


def _in_sync(name: str, topic: TopicSurvey) -> Finding:
    found = topic.settings.get("min.insync.replicas", "1")
    good = int(found) >= 2
    remedy = "" if good else "set 2: with 1 an acknowledged record may be lost with one broker"
    return Finding(f"min.insync.replicas of {name}", "ok" if good else "warn", found, remedy)


def _transactions(config: Config, seen: Survey) -> Iterator[Finding]:
    if config.kafka.delivery != "exactly_once":
        yield Finding("delivery", "warn", "at_least_once: no fencing, the last cut may come twice")
        return
    limit = _number(seen.settings, "transaction.max.timeout.ms")
    wanted = config.kafka.transaction_timeout_ms
    if limit is not None and wanted > limit:
        remedy = f"kafka.transaction_timeout_ms = {limit} or less"
        yield Finding(
            "transaction timeout", "fail", f"{wanted} ms, the broker allows {limit}", remedy
        )
    elif wanted > 45_000:
        remedy = "10000: a crash holds readers up for so long"
        yield Finding("transaction timeout", "warn", f"{wanted} ms", remedy)
    else:
        yield Finding("transaction timeout", "ok", f"{wanted} ms, the broker allows {limit or '?'}")


def _number(settings: Mapping[str, str], name: str) -> int | None:
    return int(settings[name]) if settings.get(name, "").isdigit() else None
