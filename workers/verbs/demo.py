"""`demo`: all of it in one go."""

from __future__ import annotations

import click

from workers import output
from workers.options import Call, verb


@click.command()
@click.option("--events", type=click.IntRange(1), default=20_000, show_default=True)
@click.option(
    "--broker",
    type=click.Choice(["mock", "kafka"]),
    default="mock",
    show_default=True,
    help="mock: inside this process. kafka: a real one, started for the demo (JDK 17, Maven).",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--scenario",
    default="steady",
    show_default=True,
    help="steady, season, launch, delayed, dirty, attack or attack_many.",
)
@verb(kafka=True, state=True)
def demo(call: Call, events: int, broker: str, seed: int, scenario: str) -> None:
    """A simulated shop, a broker, the trainer and a reader of its scores; nothing else is needed.

    With --bootstrap it uses that broker instead, under topic names of its own.
    """
    from stream_mtl.simulator import SCENARIOS
    from workers.demo import Demo, run_demo

    if scenario not in SCENARIOS:
        raise click.BadParameter(
            f"{scenario!r} is not one of {', '.join(SCENARIOS)}", param_hint="--scenario"
        )
    summary = run_demo(call, Demo(events, broker, seed, scenario))
    call.result(summary, output.summary_lines(summary))
