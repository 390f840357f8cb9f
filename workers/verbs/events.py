"""`events validate`: would the worker understand these records?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from workers import output
from workers.options import Call, verb

_EXAMPLES = 5  # places named of one reason


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
    """Decode FILES (.jsonl, .jsonl.gz) as the worker would; say what is refused, where and why.

    Exit 0 when all lines are good, 65 when some are refused.
    """
    from stream_mtl.cut import Reject
    from stream_mtl.errors import ConfigError
    from stream_mtl.files import records_of_files
    from stream_mtl.serde import decode

    config = call.config()
    for path in files:
        if not path.is_file():
            raise ConfigError(f"no such file of events: {path}; expected .jsonl or .jsonl.gz")
    types: Counter[str] = Counter()
    reasons: dict[str, dict[str, Any]] = {}
    for path in files:
        for record in records_of_files([path], config.source.max_record_bytes):
            found = decode(record, config.source, config.topics)
            if not isinstance(found, Reject):
                types[type(found).__name__] += 1
                continue
            entry = reasons.setdefault(found.reason, {"records": 0, "examples": []})
            entry["records"] += 1
            if len(entry["examples"]) < _EXAMPLES:
                place = f"{path}:{record.offset + 1}"
                entry["examples"].append({"at": place, "message": found.message})
    good, bad = types.total(), sum(entry["records"] for entry in reasons.values())
    lines = output.table(types.most_common(), ["event", "records"])
    for reason, entry in reasons.items():
        lines += ["", f"{reason}: {entry['records']} refused"]
        lines += [f"  {example['at']}  {example['message']}" for example in entry["examples"]]
    call.result(
        {
            "dialect": "canonical",
            "valid": good,
            "refused": bad,
            "events": dict(types),
            "reasons": reasons,
        },
        [*lines, "", f"{good} good, {bad} refused"],
    )
    return 65 if bad else 0
