"""A search for settings: what is told while it runs, what is said at the end, and the file of the result."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stream_mtl import config_file
from stream_mtl.config import Config
from stream_mtl.errors import StorageError
from stream_mtl.tuning.space import Space, Value, configured
from workers import output

if TYPE_CHECKING:
    from stream_mtl.tuning.search import Plan, Report
    from stream_mtl.tuning.study import Trial


def run_tune(config: Config, space: Space, plan: Plan, timeout_s: float | None) -> Report:
    """Search, telling of it on stderr. Raises what `search.tune` raises."""
    from stream_mtl.tuning.search import tune

    started = time.monotonic()
    told = _Told(plan)
    return tune(
        config,
        space,
        plan,
        told,
        lambda: timeout_s is None or time.monotonic() - started < timeout_s,
    )


class _Told:
    """A line for every fold, on stderr."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._given, self._best = plan, "", ""
        self._best_value: float | None = None
        self._since = time.monotonic()

    def folding(self, what: str) -> None:
        output.note(f"tune: {what}")
        self._since = time.monotonic()

    def given(self, tuning: float, later: float) -> None:
        self._given = f"given {tuning:.4f}"
        output.note(f"tune: {self._given} on the tuning span, {later:.4f} later; {self._seconds()}")

    def trial(self, trial: Trial) -> None:
        value = "" if trial.value is None else f" {trial.value:.4f}"
        if trial.state == "done" and trial.value is not None:
            best, gain = self._best_value, self._plan.objective.gain
            if best is None or gain(trial.value, best) > 0:
                self._best_value = trial.value
                self._best = f"best {trial.value:.4f} of trial {trial.number}, "
        reason = f" ({trial.reason.splitlines()[0]})" if trial.reason else ""
        output.note(
            f"tune: trial {trial.number} of {self._plan.trials}: {trial.state}{value}{reason};"
            f" {self._best}{self._given}; {self._seconds()}"
        )

    def _seconds(self) -> str:
        now = time.monotonic()
        seconds, self._since = now - self._since, now
        return f"{seconds:.1f} s"


def report_lines(report: Report) -> Iterator[str]:
    """The report for people."""
    objective, marks = report.objective, report.as_json()["records"]
    end = marks["tuning"] + marks["later"]
    yield f"{objective.metric} of {', '.join(objective.tasks)}; {objective.better} is better"
    if report.unjudged:
        yield f"not judged, for want of labels in both spans: {', '.join(report.unjudged)}"
    yield (
        f"tuning span: records {marks['counted_from']} to {marks['tuning']} count; "
        f"later span: {marks['tuning']} to {end}"
    )
    yield ""
    rows: list[list[object]] = [
        ["given", report.baseline["tuning"], report.baseline["later"], None, None]
    ]
    rows += [[f"trial {f.trial}", f.tuning, f.later, f.gain, f.needed] for f in report.finalists]
    yield from output.table(rows, ["", "tuning", "later", "gain", "noise of events"])
    if report.seed_gains:
        gains = ", ".join(f"{gain:+.4g}" for gain in report.seed_gains)
        yield f"gain of the given configuration by another seed: {gains}"
    yield ""
    counts = Counter(trial.state for trial in report.trials)
    yield f"{len(report.trials)} trials: " + ", ".join(
        f"{n} {state}" for state, n in counts.items()
    )
    reasons = Counter(trial.reason for trial in report.trials if trial.reason)
    yield from (f"failed {number} times: {reason}" for reason, number in reasons.items())
    yield from _recommended(report)


def _recommended(report: Report) -> Iterator[str]:
    chosen = report.recommended
    if chosen is None:
        yield "recommended: the given configuration; no trial is better later by more than the noise"
        return
    yield f"recommended: trial {chosen.trial}"
    yield ""
    yield from output.table(list(chosen.settings.items()), ["setting", "value"])


def require_folder(path: Path | None) -> None:
    """Before hours of trials, not after them. Raises StorageError."""
    if path is not None and not path.absolute().parent.is_dir():
        raise StorageError(f"cannot write {path}: there is no such folder")


def write_config(path: Path, config: Config, settings: Mapping[str, Value]) -> None:
    """A config file of what was given, and over it `settings`; secrets are left out. Raises StorageError."""
    best = configured(config, settings)
    tree = best.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    lines = [
        "# written by `stream-mtl tune`: "
        + ("its best settings" if settings else "as it was given"),
        *(f"# left out, a secret: {'.'.join(keys)}" for keys in _drop_secrets(tree)),
        *_toml(tree),
    ]
    try:
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _drop_secrets(tree: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    dropped = []
    for name, value in list(tree.items()):
        keys = (*above, name)
        if isinstance(value, dict):
            dropped += _drop_secrets(value, keys)
        elif config_file.is_secret(keys):
            del tree[name]
            dropped.append(keys)
    return dropped


def _toml(table: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[str]:
    """Plain values first: what follows a header belongs to it. A JSON scalar or list is TOML too."""
    for name, value in table.items():
        if not isinstance(value, dict):
            yield f"{_key(name)} = {json.dumps(value, ensure_ascii=False)}"
    for name, value in table.items():
        if isinstance(value, dict):
            keys = (*above, _key(name))
            yield from ("", f"[{'.'.join(keys)}]")
            yield from _toml(value, keys)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name, ensure_ascii=False)
