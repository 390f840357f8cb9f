"""`ckpt ls`, `ckpt show`, `ckpt verify`, `ckpt diff`, `ckpt rollback`, `ckpt propensities`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from workers import output
from workers.options import Call, verb
from workers.verbs.control import give, sent

if TYPE_CHECKING:
    from stream_mtl.checkpoint import CheckpointStore


@click.group()
def ckpt() -> None:
    """Checkpoints of the state folder."""


@ckpt.command()
@verb(state=True)
def ls(call: Call) -> None:
    """List the checkpoints, newest first."""
    store = _store(call)
    rows = [
        {"name": info.name, "cut": info.cut, "size_bytes": store.size(info.name)}
        for info in store.list()
    ]
    lines = output.table([tuple(row.values()) for row in rows], ["name", "cut", "bytes"])
    call.result({"checkpoints": rows}, lines if rows else ["no checkpoints"])


@ckpt.command()
@click.argument("name", default="")
@verb(state=True)
def show(call: Call, name: str) -> None:
    """The manifest of a checkpoint; without NAME of the newest one."""
    import json

    store = _store(call)
    found = store.manifest(name or _newest(store)).model_dump(mode="json")
    call.result({"name": name or _newest(store), **found}, [json.dumps(found, indent=2)])


@ckpt.command()
@click.argument("names", nargs=-1)
@verb(state=True)
def verify(call: Call, names: tuple[str, ...]) -> int:
    """Check that every file is whole; without NAMES of all checkpoints. Exit 65 when one is not."""
    from stream_mtl.errors import CheckpointCorrupt

    store = _store(call)
    findings: list[dict[str, Any]] = []
    for name in names or [info.name for info in store.list()]:
        try:
            manifest = store.verify(name)
        except CheckpointCorrupt as error:
            findings.append({"name": name, "whole": False, "fault": str(error)})
        else:
            findings.append({"name": name, "whole": True, "state_digest": manifest.state_digest})
    bad = sum(not finding["whole"] for finding in findings)
    lines = [
        f"ok    {f['name']}" if f["whole"] else f"BAD   {f['name']}: {f['fault']}" for f in findings
    ]
    call.result(
        {"checkpoints": findings, "corrupt": bad},
        [*lines, f"{len(findings)} checkpoints, {bad} not whole"],
    )
    return 65 if bad else 0


@ckpt.command()
@click.argument("name", default="")
@sent
@verb(kafka=True, state=True)
def rollback(call: Call, name: str, command_id: str, wait: float) -> int:
    """Have the running worker go back to what NAME had learned; without NAME to the checkpoint before the last.

    Offsets, catalogue, histories and memories stay; nothing is read again.
    """
    from stream_mtl.errors import ConfigError

    if name and name not in {info.name for info in _store(call).list()}:
        raise ConfigError(f"no checkpoint {name!r} in the state folder; `ckpt ls` lists them")
    return give(call, "rollback", {"checkpoint": name or None}, command_id, wait)


@ckpt.command()
@click.argument("a")
@click.argument("b")
@verb(state=True)
def diff(call: Call, a: str, b: str) -> None:
    """What differs between two checkpoints, part by part."""
    from stream_mtl.checkpoint_diff import differences

    store = _store(call)
    found = differences(store.load(a)[0], store.load(b)[0])
    lines = [f"{one.part}: {one.said()}" for one in found] or ["no difference"]
    call.result({"a": a, "b": b, "parts": [one.as_json() for one in found]}, lines)


@ckpt.command()
@click.argument("name", default="")
@verb(state=True)
def propensities(call: Call, name: str) -> None:
    """How likely each place is looked at, by the position bias that every task has learned; without NAME in the newest.

    For `tasks.X.propensities`, where no lists in random order were shown (`events propensities` is surer). Exact where
    clicks are rare, too low else.
    """
    from stream_mtl.errors import ConfigError
    from stream_mtl.propensity import learned

    store = _store(call)
    name = name or _newest(store)
    found = learned(store.load(name)[0])
    if not found:
        raise ConfigError(
            f"no task of checkpoint {name} has learned a position bias: tasks.X.position = 'bias' does, where"
            " impressions name places"
        )
    lines = [line for task, of in found.items() for line in (f"[tasks.{task}]", output.setting(of))]
    call.result({"name": name, "tasks": {task: list(of) for task, of in found.items()}}, lines)


def _newest(store: CheckpointStore) -> str:
    from stream_mtl.errors import CheckpointMissing

    found = store.list()
    if not found:
        raise CheckpointMissing(
            f"no checkpoint in {store.where}; --state or -c names another place"
        )
    return found[0].name


def _store(call: Call) -> CheckpointStore:
    """Reading must not create the folder: a wrong --state is said, not made."""
    from stream_mtl.checkpoint_storage import place_of
    from stream_mtl.errors import ConfigError
    from workers.stores import existing_store

    store = existing_store(call.config())
    if store is None:
        raise ConfigError(
            f"no checkpoints: {place_of(call.config())} is not a folder; --state or -c names another one"
        )
    return store
