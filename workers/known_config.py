"""The config that a state folder was last used with, to name the key when it has changed.

The ledger holds a hash of it: enough to refuse, not to say why. Sections that may hold secrets do not
change the fold and are not written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stream_mtl.config import SECTION_CLASS, Config

_FILE = "config.json"


def remember(folder: Path, config: Config) -> None:
    """Only a help for messages, so an unwritable folder is left to the checkpoints to complain about."""
    try:
        (folder / _FILE).write_text(json.dumps(_folded(config), indent=1, sort_keys=True))
    except OSError:
        return


def remembered(folder: Path) -> dict[str, Any]:
    """What `remember` wrote: the sections that change the fold; empty when nothing is known."""
    try:
        found = json.loads((folder / _FILE).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def changed_keys(folder: Path, config: Config) -> list[str]:
    """`section.key was ..., is ...` for keys that change the fold; empty when nothing is known."""
    before = remembered(folder)
    if not before:
        return []
    was, now = dict(_leaves("", before)), dict(_leaves("", _folded(config)))
    return [
        f"{key} was {was.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key)
    ]


def _folded(config: Config) -> dict[str, Any]:
    dump = config.model_dump(mode="json")
    return {name: value for name, value in dump.items() if SECTION_CLASS[name] != "runtime"}


def _leaves(prefix: str, value: object) -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    found = []
    for name, inner in value.items():
        found += _leaves(f"{prefix}.{name}" if prefix else str(name), inner)
    return found
