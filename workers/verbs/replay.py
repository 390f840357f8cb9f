"""`replay`: the audit of a range of the ledger, and the history learned anew."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from workers import output
from workers.options import Call, verb


@click.command()
@click.option(
    "--first", type=click.IntRange(0), help="First cut of the range; absent: the ledger's."
)
@click.option("--last", type=click.IntRange(0), help="Last cut of the range; absent: the ledger's.")
@click.option(
    "--from-nothing", is_flag=True, help="Begin with the empty state, not at a checkpoint."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Keep the state after the last cut there, as a checkpoint.",
)
@click.option(
    "--from-scratch",
    is_flag=True,
    help="An empty model of the present settings learns all of it anew, as a challenger.",
)
@verb(kafka=True, state=True)
def replay(
    call: Call,
    first: int | None,
    last: int | None,
    from_nothing: bool,
    out: Path | None,
    from_scratch: bool,
) -> int:
    """Fold a range of the ledger again and prove it bit for bit. Exit 65 when something differs.

    The worker may run meanwhile: topics and checkpoints are only read. With --from-scratch nothing is compared; the
    gate judges the challenger against the recorded model, and `control promote --lineage` puts it in its place.
    """
    config = call.config()
    if from_scratch:
        if (first, last, out) != (None, None, None) or from_nothing:
            raise click.UsageError(
                "--from-scratch learns all of the ledger: give no range and no --out"
            )
        return _challenge(call)
    from workers.progress import counted
    from workers.proof import prove

    with counted("replay", "cuts") as told:
        proof = prove(config, first, last, from_nothing, out, told)
    found = asdict(proof)
    call.result(found, [f"{name:<16} {value}" for name, value in found.items() if value != ""])
    return 0 if proof.equal else 65


def _challenge(call: Call) -> int:
    from workers.challenge import challenge
    from workers.progress import counted

    with counted("replay", "cuts") as told:
        found = challenge(call.config(), told)
    lines = [
        f"challenger {found.lineage}: cuts {found.first} to {found.last} learned anew, kept as {found.checkpoint}",
        *[
            f"  {task}: {rows} rows judged beside the recorded model"
            for task, rows in found.judged.items()
        ],
        f"the gate: {found.verdict}",
        *[f"  {reason}" for reason in found.reasons],
    ]
    if found.verdict == "promote":
        lines.append(f"put it in place: stream-mtl control promote --lineage {found.lineage}")
    call.result(asdict(found), lines)
    output.note(f"checkpoint of the challenger: {found.checkpoint}")
    return 0
