"""`events validate`: would the worker understand these records, and what would it miss in them? `events propensities`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from workers import output
from workers.options import Call, verb


@click.group()
def events() -> None:
    """Files of events."""


@events.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--dialect",
    type=click.Choice(["auto", "canonical"]),
    default="auto",
    show_default=True,
    help="How the events are written.",
)
@verb()
def validate(call: Call, files: tuple[Path, ...], dialect: str) -> int:
    """Decode FILES (.jsonl, .jsonl.gz) as the worker would; say what is refused, where and why, and how
    good the rest is: fields that are seldom or never filled, names that the worker does not know, time,
    disorder, duplicates.

    Exit 0 when all lines are good, 65 when some are refused.
    """
    from stream_mtl.errors import ConfigError
    from stream_mtl.files import records_of_files
    from stream_mtl.validate import Survey

    config = call.config()
    for path in files:
        if not path.is_file():
            raise ConfigError(f"no such file of events: {path}; expected .jsonl or .jsonl.gz")
    survey = Survey(config)
    for path in files:
        for record in records_of_files([path], config.source.max_record_bytes):
            survey.add(record, f"{path}:{record.offset + 1}")
    report = survey.report()
    call.result({"dialect": "canonical", **report}, list(_lines(report)))
    return 65 if report["refused"] else 0


@events.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--surface", default="", help="Lists of this surface alone, as impressions name it.")
@verb()
def propensities(call: Call, files: tuple[Path, ...], surface: str) -> None:
    """How likely each place of a list is looked at, for `tasks.X.propensities`: click rate over that of the first.

    Right for lists in random order alone: show some, on a surface of their own, and name it. Where better items
    stand higher their quality would be taken for the place's.
    """
    from stream_mtl.errors import ConfigError
    from stream_mtl.place_counts import place_counts
    from stream_mtl.propensity import from_swaps

    counts = place_counts(files, call.config(), surface)
    clicked, shown = counts.by_place()
    if not clicked or not clicked[0]:
        there = ", ".join(f"{name} ({lists})" for name, lists in counts.surfaces.most_common())
        raise ConfigError(
            f"no click on a first place{f' of surface {surface!r}' if surface else ''}; lists with places were shown"
            f" on: {there or 'none'}"
        )
    # never 0, which no setting takes: a place without a click was looked at now and then
    found = [max(1e-4, round(theta, 4)) for theta in from_swaps(clicked, shown)]
    rows = list(zip(range(1, len(found) + 1), shown, clicked, found, strict=True))
    call.result(
        {"surface": surface, "shown": shown, "clicked": clicked, "propensities": found},
        [
            *output.table(rows, ["place", "shown", "clicked", "propensity"]),
            "",
            output.setting(found),
        ],
    )


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    yield from output.table(list(report["events"].items()), ["event", "records"])
    yield ""
    yield from _filled(report["filled"])
    for kind, names in report["unknown_fields"].items():
        for name, found in names.items():
            hint = f"; did you mean {found['similar']}?" if found["similar"] else ""
            yield f"{kind}.{name} is no field of such an event (records: {found['records']}){hint}"
    for reason, found in report["reasons"].items():
        yield from ("", f"{reason}: {found['records']} refused")
        for example in found["examples"]:
            yield f"  {example['at']}  {example['message']}"
    yield ""
    if report["time"]["first_ms"] is not None:
        yield f"from {_utc(report['time']['first_ms'])} to {_utc(report['time']['last_ms'])}"
    twice = report["duplicates"]
    where = f" ({', '.join(twice['examples'])})" if twice["records"] else ""
    yield f"{report['out_of_order']} out of order, {twice['records']} duplicates{where}"
    yield f"{report['valid']} good, {report['refused']} refused"


def _filled(filled: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """Never filled is worth more attention than always."""
    for kind, shares in filled.items():
        some = [f"{name} {share:.0%}" for name, share in shares.items() if 0 < share < 1]
        for what, names in (
            ("always has", [name for name, share in shares.items() if share == 1]),
            ("at times has", some),
            ("never has", [name for name, share in shares.items() if share == 0]),
        ):
            if names:
                yield f"{kind} {what} {', '.join(names)}"


def _utc(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1_000, UTC):%Y-%m-%d %H:%M:%S} UTC"
