"""`backtest`: what would the model have done."""

from __future__ import annotations

from pathlib import Path

import click

from workers import output
from workers.options import Call, verb


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--scores",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the score records there, one JSON object a line (.gz is compressed).",
)
@verb()
def backtest(call: Call, files: tuple[Path, ...], scores: Path | None) -> None:
    """Fold FILES of events (.jsonl, .jsonl.gz), in this order, from an empty state.

    Says how good the model would have been, and a digest of its state: two runs over the same lines with
    the same config and seed give the same digest, in whatever pieces the lines come.
    """
    from workers.backtest import run_backtest
    from workers.progress import progress

    with progress("backtest") as observer:
        summary = run_backtest(call.config(), files, scores, observer)
    call.result(summary, output.summary_lines(summary))
