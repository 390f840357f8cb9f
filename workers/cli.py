"""The command `stream-mtl`: finds the verb, runs it, and turns what went wrong into an exit code.

Exit codes: 0 done, 64 usage, 65 state refused, 69 broker unavailable, 70 bug, 74 storage, 75 temporary,
76 fenced, 78 configuration or lost position; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from workers import output

USAGE, BUG, FENCED, INTERRUPTED = 64, 70, 76, 130

# verb -> (module, its name there, what it does); the module is imported when the verb is asked for
VERBS: dict[str, tuple[str, str, str]] = {
    "demo": ("demo", "demo", "A simulated shop, a broker, the trainer and a reader in one go."),
    "run": ("run", "run", "The workers: `run trainer`."),
    "backtest": ("backtest", "backtest", "The same fold over files of events, no broker."),
    "tune": ("tune", "tune", "Search settings by backtests, judged forward in time."),
    "simulate": ("simulate", "simulate", "Events of a simulated shop, to stdout or to topics."),
    "broker": ("broker", "broker", "A real local Apache Kafka: `broker up`."),
    "check": ("check", "check", "The doctor: versions, config, disk, broker, topics."),
    "init": ("config", "init", "Write a commented starter config file."),
    "config": ("config", "config", "Effective settings with their origin; JSON Schema."),
    "control": ("control", "control", "Commands to a running worker: pause, rollback, tasks, ..."),
    "ckpt": ("ckpt", "ckpt", "Checkpoints: ls, show, verify, diff, rollback, propensities."),
    "ledger": ("ledger", "ledger", "The ledger: ls, verify."),
    "dlq": ("dlq", "dlq", "Dead letters: ls, show, replay."),
    "replay": ("replay", "replay", "Fold a range of the ledger again, or learn it anew."),
    "erase": ("erase", "erase", "Forget a person, or count what there is to forget."),
    "events": ("events", "events", "Files of events: validate, propensities."),
}


class Verbs(click.Group):
    """Lists all verbs without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, name, _ = VERBS[cmd_name]
        command = getattr(importlib.import_module(f"workers.verbs.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, help_) for name, (_, _, help_) in VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS:
            import difflib

            near = difflib.get_close_matches(args[0], list(VERBS), n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            ctx.fail(f"no verb {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every verb takes --help, --json, -c FILE and --set KEY=VALUE.",
)
@click.version_option(package_name="stream-mtl")
def cli() -> None:
    """One multi-task model of a shop, kept fresh from Kafka without forgetting."""


def main(arguments: Sequence[str] | None = None) -> None:
    leave(run(sys.argv[1:] if arguments is None else arguments))


def leave(code: int) -> NoReturn:
    """End the process. A fenced one at once: taking down a large interpreter takes seconds, in which a thread of
    it could still write to the storage that another worker owns now.
    """
    if code == FENCED:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line to its exit code. Nothing but the result of the verb goes to stdout."""
    json = "--json" in arguments
    try:
        code = cli.main(list(arguments), prog_name="stream-mtl", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        if not json or error.format_message() == "":
            error.show(sys.stderr)
            return USAGE
        return _fail("usage", error.format_message(), USAGE, json)
    except (click.Abort, KeyboardInterrupt):
        output.note("interrupted")
        return INTERRUPTED
    except SystemExit:  # click's answer to a reader of stdout that has seen enough (| head)
        return 0
    except Exception as error:
        return _explain(error, json, debug="--debug" in arguments)


def _explain(error: Exception, json: bool, debug: bool) -> int:
    from stream_mtl.errors import StreamMtlError

    if debug:
        traceback.print_exc()
    if isinstance(error, StreamMtlError):
        return _fail(type(error).__name__, str(error), error.exit_code, json)
    if isinstance(error, OSError):
        return _fail(type(error).__name__, str(error), 74, json)
    message = (
        f"this is a bug: {type(error).__name__}{_where(error)}. Run again with --debug and report the "
        "traceback; it may hold data of yours, so read it first."
    )
    return _fail("bug", message, BUG, json)


def _where(error: Exception) -> str:
    frames: Any = traceback.extract_tb(error.__traceback__)
    return f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


def _fail(kind: str, message: str, code: int, json: bool) -> int:
    output.note(f"error: {message}")
    if json:
        output.put_json({"error": {"kind": kind, "message": message, "exit_code": code}})
    return code


if __name__ == "__main__":
    main()
