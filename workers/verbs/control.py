"""`control VERB`: commands to a running worker.

Exit codes: 0 done (or sent, with `--wait 0`), 65 the worker refused it, 75 no answer yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from workers import output
from workers.options import Call, verb

if TYPE_CHECKING:
    from schemas.scores import Ack

REFUSED, NO_ANSWER = 65, 75


def sent(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Options of everything that sends a command."""
    for option in (
        click.option(
            "--wait",
            type=click.FloatRange(0),
            default=30.0,
            show_default=True,
            metavar="SECONDS",
            help="How long to wait for the worker's answer; 0 does not.",
        ),
        click.option(
            "--id",
            "command_id",
            default="",
            metavar="ID",
            help="The command's id; one that was carried out is not carried out again. Made up when absent.",
        ),
    ):
        function = option(function)
    return function


def give(call: Call, kind: str, arguments: Mapping[str, Any], command_id: str, wait: float) -> int:
    """Send a command, say what became of it, return the exit code."""
    from workers.control import command, new_id, send

    said = command(kind, arguments, command_id or new_id())
    answer = send(call.config(), said, wait)
    if answer is not None:
        call.result(answer.model_dump(mode="json", exclude_none=True), _lines(answer))
        return 0 if answer.done else REFUSED
    call.result(
        {"command_id": said.command_id, "kind": kind, "done": None},
        [f"{kind} sent, id {said.command_id}"],
    )
    if not wait:
        return 0
    output.note(
        f"no answer within {wait:g} s: the worker is not running, or busy. It carries the command out when it "
        f"reads it; ask again with --id {said.command_id}"
    )
    return NO_ANSWER


def _lines(answer: Ack) -> list[str]:
    who = f"{answer.kind} (id {answer.command_id})"
    if not answer.done:
        return [f"refused: {who}: {answer.reason}"]
    if answer.repeated is not None:
        return [f"done before, in cut {answer.repeated}: {who}"]
    lines = [f"done in cut {answer.cut}: {who}"]
    if answer.checkpoint is not None:
        lines.append(f"back to checkpoint {answer.checkpoint.name} of cut {answer.checkpoint.cut}")
    return lines + [f"{name}: {count}" for name, count in (answer.counts or {}).items()]


@click.group()
def control() -> None:
    """Commands to a running worker: they take effect in a cut, and the ledger keeps them."""


@control.command()
@sent
@verb(kafka=True)
def pause(call: Call, command_id: str, wait: float) -> int:
    """Read no events until `resume`, over restarts too; commands are still obeyed."""
    return give(call, "pause", {}, command_id, wait)


@control.command()
@sent
@verb(kafka=True)
def resume(call: Call, command_id: str, wait: float) -> int:
    """Read on after `pause`, or after too many dead letters stopped reading."""
    return give(call, "resume", {}, command_id, wait)


@control.command()
@click.option("--cut", type=click.IntRange(0), help="The newest checkpoint at or before this cut.")
@click.option("--checkpoint", metavar="NAME", help="This checkpoint (`ckpt ls`).")
@sent
@verb(kafka=True)
def rollback(
    call: Call, cut: int | None, checkpoint: str | None, command_id: str, wait: float
) -> int:
    """Go back to what an earlier checkpoint had learned; without options to the one before the last.

    Offsets, catalogue, histories and memories stay; nothing is read again.
    """
    return give(call, "rollback", {"cut": cut, "checkpoint": checkpoint}, command_id, wait)


@control.command("set-task-weight")
@click.argument("task")
@click.argument("weight", type=float)
@sent
@verb(kafka=True)
def set_task_weight(call: Call, task: str, weight: float, command_id: str, wait: float) -> int:
    """Give TASK another WEIGHT in the joint loss."""
    return give(call, "set_task_weight", {"task": task, "weight": weight}, command_id, wait)


@control.command("add-task")
@click.argument("task")
@click.argument("kind")
@click.option(
    "--with",
    "fields",
    multiple=True,
    metavar="KEY=VALUE",
    help="A field of `[tasks.NAME]`, e.g. label=cart, after=click. May be repeated.",
)
@sent
@verb(kafka=True)
def add_task(
    call: Call, task: str, kind: str, fields: tuple[str, ...], command_id: str, wait: float
) -> int:
    """Learn one more TASK of this KIND (binary, regression, multiclass, listwise, funnel)."""
    given = dict(_field(text) for text in fields)
    return give(call, "add_task", {**given, "task": task, "kind": kind}, command_id, wait)


@control.command("retire-task")
@click.argument("task")
@sent
@verb(kafka=True)
def retire_task(call: Call, task: str, command_id: str, wait: float) -> int:
    """Learn and publish TASK no more."""
    return give(call, "retire_task", {"task": task}, command_id, wait)


@control.command()
@click.option(
    "--lineage",
    metavar="ID",
    help="Put this challenger's model in place (`replay --from-scratch`).",
)
@sent
@verb(kafka=True)
def promote(call: Call, lineage: str | None, command_id: str, wait: float) -> int:
    """Publish from the newest model although the gate holds it back; or put a challenger's in its place.

    Of a challenger only what it has learned is taken: offsets, catalogue, histories and memories stay.
    """
    return give(call, "promote", {"lineage": lineage}, command_id, wait)


def _field(text: str) -> tuple[str, Any]:
    """A value is JSON where it can be (numbers, true, lists), else the text itself."""
    import json

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"expected KEY=VALUE, found {text!r}", param_hint="--with")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
