"""What a worker tells about itself while it runs: to the progress display, to the metrics, to a test.

A worker calls an `Observer`; it never imports the display or the metrics. All calls come from the
worker's main thread, never in the middle of a step, and must return within a few milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from stream_mtl.cut import CutResult

if TYPE_CHECKING:
    from stream_mtl.step_report import StepReport

Phase = Literal[
    "starting",  # config read, nothing touched yet
    "restoring",  # facts: checkpoint (name or ""), cut
    "carried_over",  # facts: afresh (parts of the state that the present settings start anew)
    "rolling_forward",  # facts: remaining (cuts), done (cuts so far)
    "restored",  # facts: cut, seconds
    "running",  # facts: partitions (owned, as "topic-partition" comma separated)
    "draining",  # SIGTERM or the last partition gave its end
    "stopped",  # facts: reason
]
Fact = int | float | str
Quality = Mapping[str, Mapping[str, object]]  # the `tasks` object of the summary


def _no_quality() -> Quality:
    return {}


@dataclass(frozen=True, slots=True)
class CutFacts:
    """What the outside saw of one committed cut. Only `step_seconds` must be given."""

    step_seconds: float
    commit_seconds: float = 0.0  # begin to acknowledged
    open_seconds: float = 0.0  # how long the transaction was open; 0 at at_least_once
    records: Mapping[str, int] = field(default_factory=dict)  # of this cut, by topic
    lag: Mapping[tuple[str, int], int] = field(default_factory=dict)  # by (topic, partition)
    watermark_ms: int = 0  # event time behind which windows have closed; 0: none yet
    replayed: bool = False  # rolled forward silently: nothing was published
    reports: Sequence[StepReport] = ()  # of the optimiser steps (`Pipeline.reports`)
    # `Pipeline.quality`: asked for at most every second or two, in the same call; costs whatever a summary costs
    quality: Callable[[], Quality] = _no_quality


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """A checkpoint that became durable, or one that failed (`failure`: skipped, disk, fsync, ...)."""

    cut: int
    name: str = ""
    size_bytes: int = 0
    snapshot_seconds: float = 0.0
    write_seconds: float = 0.0
    fsync_seconds: float = 0.0
    failure: str = ""


class Observer(Protocol):
    def phase(self, name: Phase, **facts: Fact) -> None:
        """The worker entered a phase of its life."""

    def tick(self) -> None:
        """The main loop is alive; called at least every few seconds, also while idle or waiting."""

    def cut(self, result: CutResult, facts: CutFacts) -> None:
        """A cut was committed (or, with `facts.replayed`, rolled forward)."""

    def holding(self, paused: bool, lag: Mapping[tuple[str, int], int]) -> None:
        """Only commands are read, `paused` by one or because the breaker is open; said now and then.

        With `paused` False and the breaker closed: reading goes on."""

    def checkpoint(self, facts: CheckpointFacts) -> None:
        """A checkpoint ended, well or badly."""

    def trouble(self, kind: str, **facts: Fact) -> None:
        """Something to count: commit_aborted, commit_indefinite, producer_recreated (reason=...),
        fenced, broker (away=0|1), gap (topic, records), unstable (topic, offsets behind an open transaction,
        seconds that it has been open), digest_mismatch, breaker (open=0|1), disk (free bytes), headroom
        (seconds until the log forgets what a restart needs), crash_suspects (records: 0 when it is over)."""

    def summary(self, summary: Mapping[str, object]) -> None:
        """The worker ended well; this is what it hands back."""


class Silent:
    """An observer that tells nobody; also what a partial observer inherits its silence from."""

    def phase(self, name: Phase, **facts: Fact) -> None: ...

    def tick(self) -> None: ...

    def cut(self, result: CutResult, facts: CutFacts) -> None: ...

    def holding(self, paused: bool, lag: Mapping[tuple[str, int], int]) -> None: ...

    def checkpoint(self, facts: CheckpointFacts) -> None: ...

    def trouble(self, kind: str, **facts: Fact) -> None: ...

    def summary(self, summary: Mapping[str, object]) -> None: ...


class Several:
    """One observer that passes everything to several, in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def phase(self, name: Phase, **facts: Fact) -> None:
        for observer in self._observers:
            observer.phase(name, **facts)

    def tick(self) -> None:
        for observer in self._observers:
            observer.tick()

    def cut(self, result: CutResult, facts: CutFacts) -> None:
        for observer in self._observers:
            observer.cut(result, facts)

    def holding(self, paused: bool, lag: Mapping[tuple[str, int], int]) -> None:
        for observer in self._observers:
            observer.holding(paused, lag)

    def checkpoint(self, facts: CheckpointFacts) -> None:
        for observer in self._observers:
            observer.checkpoint(facts)

    def trouble(self, kind: str, **facts: Fact) -> None:
        for observer in self._observers:
            observer.trouble(kind, **facts)

    def summary(self, summary: Mapping[str, object]) -> None:
        for observer in self._observers:
            observer.summary(summary)
