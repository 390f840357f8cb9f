"""What a verb says: one result on stdout, everything else on stderr.

With `--json` the result is one JSON object and stdout holds nothing else; without it, lines for people.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def is_live(stream: Any = None) -> bool:
    """Whether a display may move the cursor: a terminal that is not dumb, and NO_COLOR is not set."""
    stream = stream or sys.stderr
    return (
        bool(stream.isatty())
        and os.environ.get("TERM") != "dumb"
        and not os.environ.get("NO_COLOR")
    )


def note(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def put_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout; what JSON cannot say (NaN, infinity) becomes null."""
    print(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False), flush=True)


def put_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)
    sys.stdout.flush()


def table(rows: Sequence[Sequence[object]], header: Sequence[str]) -> list[str]:
    """Columns padded to their widest cell; the last one is left as it is."""
    cells = [list(header), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def setting(propensities: Sequence[float]) -> str:
    """As a line of a task's section."""
    return f"propensities = [{', '.join(f'{one:g}' for one in propensities)}]"


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The summary object for people."""
    flat = [(k, v) for k, v in summary.items() if not isinstance(v, (dict, list))]
    recall = summary.get("recall") or {}
    flat += [(f"recall_{k}", v) for k, v in recall.items() if not isinstance(v, dict)]
    sharing = summary.get("sharing") or {}
    if sharing:
        flat.append(("tasks that agree", "; ".join(" + ".join(g) for g in sharing["groups"])))
    flat += [
        (name, ", ".join(f"{key} {count}" for key, count in summary[name].items()))
        for name in ("exposures", "drift_alarms", "decisions")
        if summary.get(name)
    ]
    tasks = summary.get("tasks") or {}
    # a column that says nothing of any task is left out: the table must fit a screen
    said = (
        name
        for task in tasks.values()
        for name, value in task.items()
        if value is not None and not isinstance(value, (dict, list))
    )
    columns = list(dict.fromkeys(said))
    rows = [[name, *(task.get(column) for column in columns)] for name, task in tasks.items()]
    head = [f"{key:<18} {_cell(value)}" for key, value in flat]
    return [*head, "", *table(rows, ["task", *columns])] if rows else head


def plain(value: object) -> str:
    """In a line for people."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return "; ".join(map(plain, value)) or "none"
    return _cell(value)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "-"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
