"""`dlq ls`, `dlq show`: what could not be used, and why."""

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

    from stream_mtl.kafka.reading import read_topic

    config = call.config()
    reasons: Counter[str] = Counter()
    newest: deque[dict[str, Any]] = deque(maxlen=last)
    for record in read_topic(config, config.topics.dlq):
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
    call.result({"topic": config.topics.dlq, "reasons": counts, "last": list(newest)}, lines)


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
