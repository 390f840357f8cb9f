"""`dlq ls`, `dlq show`, `dlq replay`: what could not be used, why, and once more."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from workers import output
from workers.options import Call, verb

if TYPE_CHECKING:
    from stream_mtl.cut import Record


@click.group()
def dlq() -> None:
    """Dead letters: records that could not be used, with the reason."""


@dlq.command()
@click.option("--last", type=click.IntRange(0), default=10, show_default=True, help="List so many.")
@verb(kafka=True)
def ls(call: Call, last: int) -> None:
    """How many dead letters there are by reason, and where the last ones are."""
    from collections import deque

    from stream_mtl.dlq_replay import receipt_of
    from stream_mtl.kafka.reading import read_topic

    config = call.config()
    replayed = 0
    reasons: Counter[str] = Counter()
    newest: deque[dict[str, Any]] = deque(maxlen=last)
    for record in read_topic(config, config.topics.dlq):
        if receipt_of(record) is not None:
            replayed += 1
            continue
        facts = _facts(record)
        reasons[facts["reason"]] += 1
        newest.append({"partition": record.partition, "offset": record.offset, **facts})
    counts = dict(reasons.most_common())
    lines = output.table(list(counts.items()), ["reason", "records"])
    lines += (
        ["", *output.table([tuple(row.values()) for row in newest], list(newest[0]))]
        if newest
        else []
    )
    lines += [f"replayed so far: {replayed}"] if replayed else []
    shown = {"topic": config.topics.dlq, "reasons": counts, "last": list(newest)}
    call.result({**shown, "replayed": replayed}, lines)


@dlq.command()
@click.argument("partition", type=click.IntRange(0))
@click.argument("offset", type=click.IntRange(0))
@click.option("--value", is_flag=True, help="The record itself too; it may be personal data.")
@verb(kafka=True)
def show(call: Call, partition: int, offset: int, value: bool) -> None:
    """The headers of one dead letter, by its PARTITION and OFFSET in the dead-letter topic."""
    from stream_mtl.kafka.reading import read_one

    config = call.config()
    record = read_one(config, config.topics.dlq, partition, offset)
    shown: dict[str, Any] = {
        "partition": partition,
        "offset": offset,
        "timestamp": record.timestamp_ms,
        "headers": {name: _text(content) for name, content in record.headers},
        "value_bytes": None if record.value is None else len(record.value),
    }
    if value:
        shown["key"], shown["value"] = _text(record.key), _text(record.value)
    flat = [(k, v) for k, v in shown.items() if k != "headers"] + list(shown["headers"].items())
    call.result(shown, output.table(flat, ["what", "is"]))


@dlq.command()
@click.option("--reason", "reasons", multiple=True, help="Only these; `crash` only when named.")
@click.option("--limit", type=click.IntRange(1), help="At most so many.")
@click.option("--partition", type=click.IntRange(0), help="One letter, with --offset.")
@click.option("--offset", type=click.IntRange(0), help="Its place in the dead-letter topic.")
@click.option("--again", is_flag=True, help="Also what was replayed before.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, send nothing.")
@verb(kafka=True)
def replay(
    call: Call,
    reasons: tuple[str, ...],
    limit: int | None,
    partition: int | None,
    offset: int | None,
    again: bool,
    dry_run: bool,
) -> None:
    """Send dead letters back to the topic and partition that they came from, as they were.

    Each letter once, in one transaction with a receipt on the dead-letter topic, so a second call finds
    nothing to do. A record that fails again comes back with a counter in a header; `dlq.max_replays`
    ends that.
    """
    from schemas.scores import Reason
    from workers.dlq_replay import Choice, replay_letters

    unknown = sorted(set(reasons) - {reason.value for reason in Reason})
    if unknown:
        known = ", ".join(reason.value for reason in Reason)
        raise click.UsageError(f"no reason {unknown[0]!r}; there are: {known}")
    if (partition is None) != (offset is None):
        raise click.UsageError("--partition and --offset name one letter together")
    place = None if partition is None or offset is None else (partition, offset)
    choice = Choice(frozenset(reasons), limit, place, again, dry_run)
    done = replay_letters(call.config(), choice)
    rows = [("replayed" if not dry_run else "would be replayed", done["replayed"])]
    rows += [("replayed before", done["before"])]
    rows += [(f"refused: {why}", count) for why, count in done["refused"].items()]
    call.result(done, output.table(rows, ["letters", "count"]))


def _facts(record: Record) -> dict[str, Any]:
    """Reason and source of a dead letter, in either header style."""
    from schemas.scores import ConnectHeader, StreamsHeader

    headers = dict(record.headers)
    names = (
        ("reason", ConnectHeader.EXCEPTION, StreamsHeader.EXCEPTION),
        ("source_topic", ConnectHeader.TOPIC, StreamsHeader.TOPIC),
        ("source_partition", ConnectHeader.PARTITION, StreamsHeader.PARTITION),
        ("source_offset", ConnectHeader.OFFSET, StreamsHeader.OFFSET),
    )
    return {
        name: _text(headers.get(connect, headers.get(streams))) or "unknown"
        for name, connect, streams in names
    }


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode("utf-8", errors="replace")
