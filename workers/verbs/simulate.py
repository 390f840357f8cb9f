"""`simulate`: events of a shop with a known truth."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from workers import output
from workers.options import Call, verb

if TYPE_CHECKING:
    from stream_mtl.config import Config
    from stream_mtl.simulator import Simulated


@click.command()
@click.option("--events", type=click.IntRange(1), required=True, help="How many records.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--scenario",
    default="steady",
    show_default=True,
    help="steady, season, launch, delayed, dirty, attack or attack_many.",
)
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the true probability of each exposure there.",
)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Records a second.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Lines to a file instead of stdout (.gz is compressed).",
)
@verb(kafka=True)
def simulate(
    call: Call,
    events: int,
    seed: int,
    scenario: str,
    truth: Path | None,
    rate: float | None,
    out: Path | None,
) -> None:
    """Simulated events to stdout, or with --bootstrap to the topics, which are created when missing.

    The same scenario and seed give the same records; a longer run starts with a shorter one. Event times
    start on 2024-01-01 and are the Kafka timestamps, so topics are created with retention.ms=-1.
    """
    from stream_mtl.simulator import SCENARIOS
    from stream_mtl.simulator import simulate as records_of
    from workers import simulate as simulation
    from workers.backtest import open_lines

    if scenario not in SCENARIOS:
        raise click.BadParameter(
            f"{scenario!r} is not one of {', '.join(SCENARIOS)}", param_hint="--scenario"
        )
    if out is not None and call.bootstrap is not None:
        raise click.UsageError("--out and --bootstrap are two places; give one")
    if call.json and out is None and call.bootstrap is None:
        raise click.UsageError("--json needs stdout for its object; add --out FILE or --bootstrap")
    config = call.config()
    records = simulation.paced(records_of(scenario, events, seed), rate)
    with simulation.with_truth(records, truth) as told:
        if call.bootstrap is not None:
            written = _to_topics(told, config)
        elif out is not None:
            with open_lines(out) as stream:
                written = simulation.to_stream(told, stream)
        else:
            simulation.to_stream(told, sys.stdout.buffer)
            return
    place = call.bootstrap or str(out)
    call.result(
        {"events": written, "scenario": scenario, "seed": seed, "to": place},
        [f"{written} records of {scenario} (seed {seed}) to {place}"],
    )


def _to_topics(records: Iterable[Simulated], config: Config) -> int:
    from stream_mtl.kafka.produce import EventWriter
    from stream_mtl.kafka.topics import ensure_topics
    from workers.simulate import to_topics

    if not ensure_topics(config, retention_ms=-1):
        _warn_of_retention(config)
    writer = EventWriter(config)
    written = to_topics(records, config, writer)
    writer.flush()
    return written


def _warn_of_retention(config: Config) -> None:
    """Topics that were there before, a worker's perhaps, may not keep what is of 2024."""
    from stream_mtl.kafka.reach import connect
    from stream_mtl.kafka.survey import retentions
    from stream_mtl.kafka.topics import is_embedded

    if is_embedded(connect(config)[1]):
        return
    for name, ms in retentions(config, config.topics.events).items():
        if ms >= 0:
            output.note(
                f"warning: {name} keeps records for {ms / 86_400_000:.0f} days, and these are of 2024: the broker will"
                f" delete them. kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config"
                " retention.ms=-1 keeps them"
            )
