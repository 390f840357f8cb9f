"""`check`: the doctor."""

from __future__ import annotations

import click

from workers import output
from workers.options import Call, verb


@click.command()
@verb(kafka=True, state=True)
def check(call: Call) -> int:
    """Examine versions, config, encoder, disk, and where one is configured the broker and its topics.

    Exit 0 when nothing fails, 69 when the broker cannot be reached, 78 when something else fails.
    """
    from dataclasses import asdict

    from workers.doctor import examine, exit_code

    findings = examine(call.config())
    code = exit_code(findings)
    rows = [(f.status.upper(), f.name, f.found, f.remedy) for f in findings]
    counts = {s: sum(f.status == s for f in findings) for s in ("ok", "warn", "fail")}
    verdict = ", ".join(f"{number} {status}" for status, number in counts.items())
    call.result(
        {"findings": [asdict(f) for f in findings], **counts, "exit_code": code},
        [*output.table(rows, ["", "what", "found", "remedy"]), "", verdict],
    )
    return code
