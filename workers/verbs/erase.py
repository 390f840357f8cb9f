"""`erase`: forget a person, or count beforehand what there is to forget."""

from __future__ import annotations

import click

from workers.options import Call, verb
from workers.verbs.control import give, sent


@click.command()
@click.argument("user_id")
@click.option(
    "--dry-run", is_flag=True, help="Count what the newest checkpoint holds; change nothing."
)
@sent
@verb(kafka=True, state=True)
def erase(call: Call, user_id: str, dry_run: bool, command_id: str, wait: float) -> int:
    """Have the running worker forget USER_ID: memories, windows, histories, probes, lists.

    Lists get tombstones; a checkpoint without the person follows at once, and older ones are gone after
    checkpoint.erased_hours. What other weights have learned is not unlearned (`replay --from-scratch` is), and
    input topics are yours to purge: erase there first, or a late record brings the person back.
    """
    if not dry_run:
        return give(call, "erase_user", {"user_id": user_id}, command_id, wait)
    from workers.erasure_dry_run import would_erase

    found = would_erase(call.config(), user_id)
    lines = [f"{name:<16} {count}" for name, count in found.counts.items()]
    lines.append(
        f"checkpoints that may hold the person: {found.checkpoints}, newest of cut {found.cut}"
    )
    call.result(
        {"counts": found.counts, "checkpoints": found.checkpoints, "cut": found.cut, "done": False},
        lines,
    )
    return 0
