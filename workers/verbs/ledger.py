"""`ledger ls`, `ledger verify`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from workers import output
from workers.options import Call, verb


@click.group()
def ledger() -> None:
    """The ledger: one record a cut."""


@ledger.command()
@click.option("--last", type=click.IntRange(1), default=20, show_default=True, help="So many cuts.")
@verb(kafka=True)
def ls(call: Call, last: int) -> None:
    """List the newest cuts: what they read and what came of it, and what was decided in them, with its reasons."""
    from stream_mtl.kafka.ledger_log import read_ledger
    from stream_mtl.ledger import decode

    entries = [decode(raw, offset) for offset, raw in read_ledger(call.config())]
    rows: list[dict[str, Any]] = [
        {
            "cut": entry.cut,
            "kind": entry.record.kind,
            "lineage": entry.record.lineage,
            "records": sum(r.records for r in entry.record.ranges),
            "outputs": entry.record.counts.get("outputs", 0),
            "dead_letters": entry.record.counts.get("dead_letters", 0),
            "checkpoint": entry.record.checkpoint.name if entry.record.checkpoint else None,
            "digest": entry.record.digest,
            "decisions": entry.record.decisions,
        }
        for entry in entries[-last:]
    ]
    columns = [name for name in rows[0] if name != "decisions"] if rows else []
    lines = output.table([[row[name] for name in columns] for row in rows], columns) if rows else []
    told = [
        f"cut {row['cut']} decided {_said(decision)}"
        for row in rows
        for decision in row["decisions"]
    ]
    call.result(
        {"cuts": len(entries), "last": rows},
        [*lines, *told, f"{len(entries)} records in the ledger"],
    )


def _said(decision: Mapping[str, Any]) -> str:
    facts = [f"{key} {output.plain(value)}" for key, value in decision.items() if key != "kind"]
    return f"{decision['kind']}{': ' if facts else ''}{', '.join(facts)}"


@ledger.command()
@verb(kafka=True, state=True)
def verify(call: Call) -> int:
    """Fold the ledger's cuts again and compare digests and scores. Exit 65 when something is wrong."""
    from stream_mtl.errors import ConfigError
    from workers.audit import verify_ledger

    config = call.config()
    report = verify_ledger(config)
    if not report.cuts:
        raise ConfigError(
            f"the ledger {config.topics.ledger} at {config.kafka.bootstrap} is empty: nothing to verify; is it the"
            " right topic and broker?"
        )
    found = report.as_json()
    lines = [
        f"{name:<18} {output.plain(value)}" for name, value in found.items() if name != "faults"
    ]
    if report.cuts_unverifiable:
        lines.append(
            f"{report.cuts_unverifiable} of {report.cuts} cuts were not folded again (another configuration or"
            " environment than theirs, or their records are gone), so their digests are not compared"
        )
    call.result(found, [*lines, *report.faults])
    return 0 if report.clean else 65
