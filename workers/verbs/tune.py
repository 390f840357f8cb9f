"""`tune`: search settings by backtests."""

from __future__ import annotations

from pathlib import Path

import click

from workers import output
from workers.options import Call, verb


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--space",
    "space_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="What to search, TOML or YAML; --show-space prints one.",
)
@click.option("--show-space", is_flag=True, help="Print the space as a space file, and end.")
@click.option(
    "--trials",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="In all, those of --study included.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="Begin no trial after so many seconds; what is there is then compared.",
)
@click.option(
    "--objective",
    default="normalized_entropy",
    show_default=True,
    metavar="[TASK.]METRIC",
    help="A prequential metric of a task, or its mean over all tasks.",
)
@click.option(
    "--tuning-share",
    type=click.FloatRange(0.1, 0.9),
    default=0.7,
    show_default=True,
    help="Part of the records that trials see.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the recommended configuration there (TOML), for -c.",
)
@click.option(
    "--study",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keep the trials there (SQLite) and take them up again.",
)
@verb()
def tune(
    call: Call,
    files: tuple[Path, ...],
    space_file: Path | None,
    show_space: bool,
    trials: int,
    timeout: float | None,
    objective: str,
    tuning_share: float,
    out: Path | None,
    study: Path | None,
) -> None:
    """Search settings by backtests over FILES of events, and judge the best forward in time.

    Trials see the first part of the records, and the last third of it counts. The best three and the given
    configuration then go on over the rest, which no trial has seen: recommended is what is better there by more
    than the noise, else the given configuration. Same files, settings, seed and trials, same result.
    """
    from stream_mtl.tuning.space import as_json, as_toml, default_space, read_space

    config = call.config()
    space = read_space(space_file) if space_file else default_space(config)
    if show_space:
        from stream_mtl.tuning.space import check_space

        check_space(space, config)
        call.result(as_json(space), as_toml(space).splitlines())
        return
    if not files:
        raise click.UsageError("Missing argument 'FILES...'.")
    from stream_mtl.tuning.objective import Objective
    from stream_mtl.tuning.search import Plan
    from workers.tune import report_lines, require_folder, run_tune, write_config

    for path in (out, study):
        require_folder(path)
    judged = Objective.parse(objective, list(config.tasks))
    plan = Plan(files, judged, trials, tuning_share, study=study)
    report = run_tune(config, space, plan, timeout)
    found = report.as_json()
    if out is not None:
        write_config(out, config, found["settings"])
        output.note(f"tune: wrote {out}")
    call.result(found, report_lines(report))
