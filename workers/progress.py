"""What a person sees while a worker runs: a live table on a terminal, a plain line every two seconds elsewhere.

Both go to stderr, so that stdout stays the result's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from stream_mtl.cut import CutResult
from workers import output
from workers.observer import CheckpointFacts, CutFacts, Fact, Observer, Phase, Quality, Silent

LINE_S, LIVE_S = 2.0, 0.5
_COLUMNS = ("labels", "auc", "normalized_entropy", "calibration", "forgetting", "memory_rows")
_HEADS = ("labels", "AUC", "norm. entropy", "calibration", "forgetting", "memory")


class Tally(Silent):
    """Counts what was told. `every` seconds `show` is called with this object."""

    def __init__(self, title: str, every: float, show: Callable[[Tally], None]) -> None:
        self.title, self.phase_name = title, "starting"
        self.events = self.rejected = self.cuts = self.scores = self.lag = 0
        self.event_time = 0
        self.quality: Quality = {}
        self.drifts: list[str] = []  # alarms since the last look
        self.checkpoint_text = "none yet"
        self.events_per_second = 0.0
        self._every, self._show = every, show
        self._phase: Phase | None = None
        self._shown = self._since = time.monotonic()
        self._events_then = 0
        self._ran = False  # cuts of then are told already, should an outage have them folded again

    def phase(self, name: Phase, **facts: Fact) -> None:
        now, same = time.monotonic(), name == self._phase
        if same and now - self._shown < self._every:
            return  # a roll-forward tells of every cut
        self._phase, self._shown = name, now
        said = " ".join(f"{key}={value}" for key, value in facts.items() if value != "")
        self.phase_name = f"{name.replace('_', ' ')} {said}".strip()
        if name == "running":
            self._since, self._ran = now, True
        self._show(self)

    def cut(self, result: CutResult, facts: CutFacts) -> None:
        if facts.replayed and self._ran:
            return
        self.cuts += 1
        self.events += result.counts.get("events", 0)
        self.rejected += result.counts.get("rejected", 0)
        self.scores += 0 if facts.replayed else sum(o.value is not None for o in result.outputs)
        self.lag = sum(facts.lag.values())
        said = [f"{drift.task} {drift.signal}" for drift in result.drifts]
        self.drifts = list(dict.fromkeys(self.drifts + said))
        self.event_time = max(self.event_time, result.event_time)
        now = time.monotonic()
        if now - self._shown >= self._every:
            self.events_per_second = (self.events - self._events_then) / (now - self._since)
            self._shown = self._since = now
            self._events_then = self.events
            self.quality = facts.quality()
            self._show(self)
            self.drifts = []

    def checkpoint(self, facts: CheckpointFacts) -> None:
        said = f"failed ({facts.failure})" if facts.failure else f"{facts.size_bytes / 1e6:.1f} MB"
        self.checkpoint_text = f"cut {facts.cut}, {said}"

    def summary(self, summary: Mapping[str, object]) -> None:
        tasks = summary.get("tasks")
        if isinstance(tasks, Mapping):
            self.quality = tasks
        self._show(self)


@contextmanager
def progress(title: str) -> Iterator[Observer]:
    """An observer that shows; the display is gone when the block ends."""
    if not output.is_live():
        yield Tally(title, LINE_S, Lines())
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        yield Tally(title, LIVE_S, lambda tally: live.update(_table(tally), refresh=True))


class Lines:
    """One line a look; a phase change is a line of its own."""

    def __init__(self) -> None:
        self._phase = ""

    def __call__(self, tally: Tally) -> None:
        if tally.phase_name != self._phase:
            self._phase = tally.phase_name
            output.note(f"{tally.title}: {self._phase}")
            return
        output.note(f"{tally.title}: {line(tally)}")


def line(tally: Tally) -> str:
    tasks = [
        f"{name} AUC {_figure(task.get('auc'))} NE {_figure(task.get('normalized_entropy'))}"
        f" forgetting {_figure(task.get('forgetting'))}"
        for name, task in tally.quality.items()
    ]
    head = (
        f"{tally.events} events ({tally.events_per_second:.0f}/s), {tally.rejected} rejected, "
        f"{tally.cuts} cuts, lag {tally.lag}, {tally.scores} scores"
    )
    drifts = [f"drift: {', '.join(tally.drifts)}"] if tally.drifts else []
    return "; ".join([head, *tasks, *drifts])


def _table(tally: Tally) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text as Rich

    grid = Table(title=None, header_style="bold", pad_edge=False)
    grid.add_column("task")
    for head in _HEADS:
        grid.add_column(head, justify="right")
    for name, task in tally.quality.items():
        grid.add_row(name, *[_figure(task.get(column)) for column in _COLUMNS])
    title = Rich.assemble((f"{tally.title} ", "bold"), (tally.phase_name, "cyan"))
    flow = Rich(
        f"{tally.events_per_second:,.0f} events/s   {tally.events:,} events   {tally.rejected:,} rejected   "
        f"{tally.cuts:,} cuts   lag {tally.lag:,}   {tally.scores:,} scores   "
        f"checkpoint {tally.checkpoint_text}"
        + (f"   drift: {', '.join(tally.drifts)}" if tally.drifts else "")
    )
    return Group(title, flow, grid)


def _figure(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


@contextmanager
def counted(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """`told(done, whole)` for work whose size is known: a bar on a terminal, a plain line now and then elsewhere."""
    if output.is_live():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(f"{title}, {unit}", total=None)
            yield lambda done, whole: bar.update(task, completed=done, total=whole)
        return
    shown = time.monotonic()

    def told(done: int, whole: int) -> None:
        nonlocal shown
        if done == whole or time.monotonic() - shown >= LINE_S:
            shown = time.monotonic()
            output.note(f"{title}: {done} of {whole} {unit}")

    yield told
