"""Options that verbs share, and the call a verb gets: its settings and where its result goes."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from workers import output

if TYPE_CHECKING:
    from stream_mtl.config import Config
    from workers.settings import Settings

Flag = tuple[str, str, str]
STARTED = time.monotonic()  # near enough to the start of the process: this is imported first of all


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a verb. `flags` are settings said on the command line, in order."""

    json: bool
    file: Path | None
    flags: tuple[Flag, ...]
    bootstrap: str | None = field(default=None)

    def settings(self, presets: Iterable[Flag] = ()) -> Settings:
        """Defaults < `presets` of the verb < file < environment < flags. Raises ConfigError."""
        from workers import settings

        return settings.load(self.file, os.environ, self.flags, presets)

    def config(self, presets: Iterable[Flag] = ()) -> Config:
        return self.settings(presets).config

    def result(self, value: Mapping[str, Any], lines: Iterable[str]) -> None:
        """The one thing that goes to stdout."""
        if self.json:
            output.put_json(value)
        else:
            output.put_lines(lines)


def verb(
    kafka: bool = False, state: bool = False
) -> Callable[[Callable[..., int | None]], Callable[..., int | None]]:
    """A verb takes a `Call` first, then its own arguments, and returns its exit code (None is 0)."""

    def decorate(function: Callable[..., int | None]) -> Callable[..., int | None]:
        @functools.wraps(function)
        def run(**given: Any) -> int | None:
            return function(_call(given), **given)

        wrapped: Callable[..., int | None] = run
        for option in _options(kafka, state):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def _call(given: dict[str, Any]) -> Call:
    from workers import settings

    flags = [settings.assignment(text) for text in given.pop("assignments")]
    given.pop("debug")
    bootstrap, state = given.pop("bootstrap", None), given.pop("state", None)
    if bootstrap is not None:
        flags.append(("kafka.bootstrap", bootstrap, "--bootstrap"))
    if state is not None:
        flags.append(("state", state, "--state"))
    return Call(given.pop("json"), given.pop("config_file"), tuple(flags), bootstrap)


def _options(kafka: bool, state: bool) -> list[Callable[[Any], Any]]:
    """In reverse: click lists the option that was added last first."""
    options = [
        click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error."),
        click.option("--json", is_flag=True, help="One JSON object on stdout, nothing else there."),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="KEY=VALUE",
            help="One setting, e.g. cut.interval_ms=300. May be repeated.",
        ),
        click.option(
            "-c",
            "--config",
            "config_file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Config file, TOML or YAML.",
        ),
    ]
    if state:
        options.append(
            click.option("--state", metavar="DIR", help="Folder of checkpoints and the lock.")
        )
    if kafka:
        options.append(
            click.option("--bootstrap", metavar="HOST:PORT,...", help="The broker's address.")
        )
    return options
