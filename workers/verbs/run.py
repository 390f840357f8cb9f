"""`run trainer`: the worker."""

from __future__ import annotations

import click

from workers import output
from workers.options import Call, verb


@click.group()
def run() -> None:
    """The workers."""


@run.command()
@click.option(
    "--until-idle", is_flag=True, help="End when every input partition is read to its end."
)
@click.option("--take-over", is_flag=True, help="Fence another instance that is still committing.")
@click.option(
    "--new-lineage", is_flag=True, help="Go on as a new lineage; digests are not compared."
)
@click.option(
    "--cold-start", is_flag=True, help="All checkpoints are lost: a fresh model, old positions."
)
@click.option(
    "--accept-topic-recreation", is_flag=True, help="Read recreated topics from their start."
)
@verb(kafka=True, state=True)
def trainer(
    call: Call,
    until_idle: bool,
    take_over: bool,
    new_lineage: bool,
    cold_start: bool,
    accept_topic_recreation: bool,
) -> None:
    """Keep one model fresh from the topics and publish its scores.

    SIGTERM and Ctrl-C finish the cut, commit, checkpoint and leave with exit code 0.
    """
    from stream_mtl.kafka.settings import insecurities
    from stream_mtl.metrics import Metrics
    from workers.http import Endpoint
    from workers.http_access import access, exposure
    from workers.observer import Several
    from workers.progress import progress
    from workers.startup import TrainerOptions
    from workers.stop import Stop
    from workers.trainer import run_trainer
    from workers.watch import Health, Watch

    config = call.config()
    options = TrainerOptions(
        until_idle=until_idle,
        take_over=take_over,
        new_lineage=new_lineage,
        cold_start=cold_start,
        accept_topic_recreation=accept_topic_recreation,
    )
    metrics, health = Metrics(config), Health()
    with (
        Stop() as stop,
        Endpoint(config.metrics.address, metrics, health, access(config.metrics)) as endpoint,
        progress("trainer") as shown,
    ):
        if endpoint.url:
            output.note(f"metrics: {endpoint.url}/metrics")
        for warning in (exposure(config.metrics), *insecurities(config)):
            if warning:
                output.note(f"warning: {warning}")
        observer = Several([Watch(metrics, health), shown])
        summary = run_trainer(config, options, stop, observer)
    call.result(summary, output.summary_lines(summary))
