"""`ledger ls`, `ledger verify`."""

from __future__ import annotations

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
    """List the newest cuts: what they read and what came of it."""
    from stream_mtl.kafka.ledger_log import read_ledger
    from stream_mtl.ledger import decode

    entries = [decode(raw, offset) for offset, raw in read_ledger(call.config())]
    rows = [
        {
            "cut": entry.cut,
            "kind": entry.record.kind,
            "lineage": entry.record.lineage,
            "records": sum(r.records for r in entry.record.ranges),
            "outputs": entry.record.counts.get("outputs", 0),
            "dead_letters": entry.record.counts.get("dead_letters", 0),
            "checkpoint": entry.record.checkpoint.name if entry.record.checkpoint else None,
            "digest": entry.record.digest,
        }
        for entry in entries[-last:]
    ]
    lines = output.table([tuple(row.values()) for row in rows], list(rows[0])) if rows else []
    call.result(
        {"cuts": len(entries), "last": rows}, [*lines, f"{len(entries)} records in the ledger"]
    )


@ledger.command()
@verb(kafka=True, state=True)
def verify(call: Call) -> int:
    """Fold the ledger's cuts again and compare digests and scores. Exit 65 when something is wrong."""
    from workers.audit import verify_ledger

    report = verify_ledger(call.config())
    found = report.as_json()
    lines = [f"{name:<18} {value}" for name, value in found.items() if name != "faults"]
    call.result(found, [*lines, *report.faults])
    return 0 if report.clean else 65
