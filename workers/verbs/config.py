"""`config show`, `config schema`, `config tasks`, `init`."""

from __future__ import annotations

from pathlib import Path

import click

from workers import output
from workers.options import Call, verb


@click.group()
def config() -> None:
    """Effective settings with their origin; JSON Schema of a config file; what the tasks are."""


@config.command()
@click.option("--all", "everything", is_flag=True, help="Defaults too.")
@verb(kafka=True, state=True)
def show(call: Call, everything: bool) -> None:
    """Every setting that is not a default, with where it was said; --all for all of them.

    The class says what a change does: runtime keys change freely, soft keys start a new lineage with the
    state carried over, shape keys start the parts afresh that no longer fit.
    """
    from dataclasses import asdict

    from stream_mtl.config import fold_hash
    from workers import settings

    found = call.settings()
    rows = settings.effective(found)
    listed = [row for row in rows if everything or row.origin != "default"]
    lines = output.table(
        [(r.key, r.value, r.origin, r.key_class, r.description) for r in listed],
        ["key", "value", "origin", "class", "what it is"],
    )
    if not everything:
        lines.append(f"and {len(rows) - len(listed)} defaults; --all shows them")
    # the JSON has all of it: programs filter for themselves
    call.result({"fold": fold_hash(found.config), "settings": [asdict(r) for r in rows]}, lines)


@config.command()
@verb()
def schema(call: Call) -> None:
    """JSON Schema of a config file, for editors and linters."""
    import json

    from workers import settings

    found = settings.schema()
    call.result(found, [json.dumps(found, indent=2, ensure_ascii=False)])


@config.command()
@verb()
def tasks(call: Call) -> None:
    """What every task learns, from what, and what its scores mean."""
    from datetime import timedelta

    from stream_mtl.declarations import declared

    found = declared(call.config())
    rows = [
        (
            name,
            task["kind"] if task["after"] is None else f"{task['kind']} after {task['after']}",
            f"{task['weight']:g}",
            task["label"],
            "-" if task["window_ms"] is None else timedelta(milliseconds=task["window_ms"]),
            " ".join(task["fields"]) or "all",
            task["score"],
            ", ".join(task["metrics"]),
        )
        for name, task in found.items()
    ]
    header = ["task", "kind", "weight", "label", "window", "may use", "score", "metrics"]
    call.result({"tasks": found}, output.table(rows, header))


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("shop.toml"))
@verb()
def init(call: Call, path: Path) -> None:
    """Write a commented starter config file to PATH (shop.toml). Never overwrites one."""
    from workers import starter

    starter.write(path)
    call.result(
        {"written": str(path)},
        [f"wrote {path}; next: edit it, then `stream-mtl check -c {path}`"],
    )
