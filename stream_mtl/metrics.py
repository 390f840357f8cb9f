"""Every Prometheus metric, declared once, and the small methods that fill them.

All label sets come from the config or a closed list; nothing in the data can make a series (a user id least of all). They
exist from the start with 0, but for what 0 would be a lie about. A scrape reads numbers in memory, it never asks the broker.
Gauges of time differences are counted from a wall clock, which is this file's and the workers' to read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from schemas.scores import Reason
from stream_mtl.config import Config
from stream_mtl.label_join import PATHS
from stream_mtl.throttle import KINDS as THROTTLED

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_PARTITIONS = (
    100  # beyond it the lag is one series a topic: only partitions can break the budget
)
PREFIX = "stream_mtl_"
WINDOWS = ("lifetime", "faded", "newest")
PHASES = ("snapshot", "write", "fsync")
COMMIT_RESULTS = ("committed", "aborted", "indefinite")
MEASURES = ("gauc", "ece", "ndcg", "rmse", "mae", "macro_f1", "accuracy")
LABELLED = ("positive", "negative", "value")  # value: a number or a class, neither yes nor no
OTHER = "other"
KINDS = ("event", "item", "command")
# said of nothing yet, they must not say 0: 0 would be the best there is, or the worst
_NOT_BEFORE = frozenset(
    {
        "prequential_auc",
        "prequential_normalized_entropy",
        "prequential_quality",
        "calibration_ratio",
        "forgetting",
        "forgetting_by_domain",
        "transfer",
        "memory_overfit",
        "gate_entropy",
        "expert_zero_rate",
        "loss",
        "consumer_lag_records",
    }
)
VERDICTS = ("promote", "hold_back", "roll_back")
CHECKPOINT_FAILURES = ("disk_low", "write", "fsync", "rename", "bug", "stuck", "busy", "other")
RECREATIONS = ("indefinite", "aborted", "unplaced", "slow_commit", "disconnect", "other")
_STEP = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_COMMIT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_WRITE = (0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120)
_STALE = (0.1, 0.25, 0.5, 1, 2, 5, 15, 60, 300)  # an edge at 60: the freshness objective

Kind = Literal["counter", "gauge", "histogram"]
Declared = tuple[Kind, str, tuple[str, ...], tuple[float, ...]]


def _counter(help_: str, *labels: str) -> Declared:
    return "counter", help_, labels, ()


def _gauge(help_: str, *labels: str) -> Declared:
    return "gauge", help_, labels, ()


def _histogram(help_: str, buckets: tuple[float, ...], *labels: str) -> Declared:
    return "histogram", help_, labels, buckets


# name without the prefix (and, for a counter, without _total) -> what it is
METRICS: dict[str, Declared] = {
    # flow
    "events_consumed": _counter("Input records committed", "topic", "kind"),
    "events_rejected": _counter("Input records refused", "reason"),
    "events_deduplicated": _counter("Events dropped as duplicates"),
    "events_throttled": _counter("Events beyond their user's rate, which change nothing", "kind"),
    "events_late": _counter("Events that came after the watermark had passed their time"),
    "exposures": _counter("What labels are joined to, by what opened it", "kind"),
    "events_uncounted": _counter(
        "Events beyond their user's share, which move the user's own history alone"
    ),
    "bare_purchases": _counter("Purchases of what the user was never shown and never clicked"),
    "dlq_records": _counter("Dead letters committed", "reason"),
    "breaker_open": _gauge("1 while too many rejects hold up reading"),
    "paused": _gauge("1 while a command keeps events from being read"),
    "rollbacks": _counter("Times the model went back to an earlier checkpoint"),
    "crash_suspect_records": _gauge("Records of the cut that is tried after a crash; 0: none is"),
    "consumer_lag_records": _gauge("Records not read yet", "topic", "partition"),
    "stable_offset_lag_records": _gauge(
        "Offsets behind an open transaction of another producer, of the worst partition; not counted as lag: nobody may"
        " read them",
        "topic",
    ),
    "stable_offset_stuck_seconds": _gauge(
        "How long one and the same transaction has been open there, as far as was seen", "topic"
    ),
    "event_time_lag_seconds": _gauge("Wall clock minus the newest event time committed"),
    "watermark_lag_seconds": _gauge(
        "Wall clock minus the watermark, the event time that has certainly been reached: windows"
        " that end later are open"
    ),
    "source_idle_seconds": _gauge("Since the last record was committed"),
    "gap_records": _counter("Records that expired before they were read", "topic"),
    "assigned_partitions": _gauge("Input partitions owned"),
    # exactly once
    "commits": _counter("Commits of a cut by their outcome", "result"),
    "commit_duration_seconds": _histogram("From begin to acknowledged", _COMMIT),
    "transaction_open_seconds": _histogram("How long a transaction was open", _COMMIT),
    "last_commit_timestamp_seconds": _gauge("Wall clock of the newest commit"),
    "ledger_sequence": _gauge("Number of the newest committed cut"),
    "producer_recreations": _counter("New producers after an unsure commit", "reason"),
    "fenced": _counter("Times another worker took over"),
    # state
    "checkpoint_duration_seconds": _histogram("Phases of a checkpoint", _WRITE, "phase"),
    "checkpoint_size_bytes": _gauge("Of the newest checkpoint"),
    "checkpoint_failures": _counter("Checkpoints not written", "reason"),
    "last_checkpoint_timestamp_seconds": _gauge("Wall clock of the newest checkpoint"),
    "checkpoint_disk_free_bytes": _gauge("Free where checkpoints are kept"),
    "restore_duration_seconds": _gauge("From start to restored, roll-forward included"),
    "rollforward_cuts": _counter("Cuts rolled forward silently"),
    "rollforward_remaining_cuts": _gauge("Cuts still to be rolled forward"),
    "rollforward_distance_cuts": _gauge("Cuts since the newest checkpoint: what a restart replays"),
    "replay_headroom_seconds": _gauge(
        "Until the log forgets what a restart would have to fold again"
    ),
    "digest_mismatches": _counter("Replayed cuts that gave another digest than the ledger's"),
    # learning
    "train_steps": _counter("Optimiser steps that had labels of the task", "task"),
    "train_step_duration_seconds": _histogram("Wall time of the fold of one cut", _STEP),
    "loss": _gauge("Normalised loss of the newest step", "task"),
    "task_weight": _gauge("What the balancer gave the task in the newest step", "task"),
    "labels_joined": _counter("Labels that matured", "task", "result"),
    "rows_left_out": _counter("Labelled rows beyond their user's share, not learned from"),
    "replay_memory_rows": _gauge("Rows kept for rehearsal", "task"),
    "rehearsal_ratio": _gauge("Rehearsed rows a fresh row in the newest step"),
    "grad_norm": _gauge("Before clipping, of the newest step"),
    "nonfinite_batches": _counter("Steps skipped for a loss or gradient that is not finite"),
    "prequential_auc": _gauge("Of predictions made at serving", "task", "window"),
    "prequential_normalized_entropy": _gauge(
        "Cross entropy over the base rate's", "task", "window"
    ),
    "prequential_quality": _gauge(
        "Further measures of a task's kind, as the summary has them", "task", "measure", "window"
    ),
    "calibration_ratio": _gauge("Predicted over actual positives", "task"),
    "forgetting": _gauge("Best so far minus now on frozen probes", "task"),
    "forgetting_by_domain": _gauge(
        "The same of the domains in features.domains; other: of the rest the worst",
        "task",
        "domain",
    ),
    "transfer": _gauge(
        "On frozen probes: backward, now minus at first; forward, as served when new, above chance",
        "task",
        "kind",
    ),
    "memory_overfit": _gauge(
        "Normalised loss of probes less that of remembered rows: what is learned by heart", "task"
    ),
    "gate_entropy": _gauge(
        "Of a task's mixture of experts, over its greatest; 0: one alone", "task"
    ),
    "expert_zero_rate": _gauge(
        "Activations that are nearly zero, of the deadest expert that the task mixes; 1: dead",
        "task",
    ),
    "recall_asked": _counter(
        "Clicks and purchases of users whose newest candidates are remembered"
    ),
    "recall_found": _counter("Of those, the ones that stood among these candidates"),
    "recall_listed": _counter("And of those, the ones that stood in the published list"),
    "drift_alarms": _counter("Times a task's quality changed", "task"),
    "publish_verdicts": _counter("What the publish gate decided", "verdict"),
    "publish_held": _gauge("1 while scores come from the last good model, not the newest"),
    "fine_tunings": _counter("Heads that were tuned, by what the gate said", "task", "verdict"),
    "head_version": _gauge("Promoted tunings of a task's head", "task"),
    # output
    "scores_published": _counter("Score records committed"),
    "score_staleness_seconds": _histogram("Commit minus the cut's newest event time", _STALE),
    "build_info": _gauge("1; the labels say what runs", "kind"),
}


class Metrics:
    """The metrics of one worker. `registry` is its own, so that tests and reruns do not collide."""

    def __init__(
        self,
        config: Config,
        registry: CollectorRegistry | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry or CollectorRegistry()
        self._clock = clock
        self.domains = frozenset(config.features.domains)
        self._kind_of = {topic: "event" for topic in config.topics.events}
        self._kind_of |= {config.topics.items: "item", config.topics.control: "command"}
        self._closed: dict[str, tuple[str, ...]] = {
            "task": tuple(config.tasks),
            "topic": tuple(self._kind_of),
            "reason": tuple(reason.value for reason in Reason),
            "result": COMMIT_RESULTS,
            "phase": PHASES,
            "window": WINDOWS,
            "measure": MEASURES,
            "domain": (*config.features.domains, OTHER),
            "verdict": VERDICTS,
        }
        self._metrics: dict[str, Any] = {}
        for name, declared in METRICS.items():
            self._metrics[name] = self._declare(name, declared)
        self._start_labels()
        self._event_time_ms: int | None = None
        self._watermark_ms = 0
        self._last_record: float | None = None
        self._metrics["event_time_lag_seconds"].set_function(self._event_time_lag)
        self._metrics["watermark_lag_seconds"].set_function(self._watermark_lag)
        self._metrics["source_idle_seconds"].set_function(self._idle)
        self.set("build_info", 1, kind=_release())
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def set(self, name: str, value: float | None, **labels: str) -> None:
        """A gauge; None leaves it as it is."""
        if value is not None:
            self._child(name, labels).set(value)

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """A counter; a label value outside its closed set counts as `other` or not at all."""
        if amount:
            self._child(name, labels).inc(amount)

    def observe(self, name: str, value: float, **labels: str) -> None:
        self._child(name, labels).observe(value)

    def own(self, partitions: Sequence[tuple[str, int]]) -> None:
        """The partitions whose lag is shown from now on."""
        self.set("assigned_partitions", len(partitions))
        self._per_partition = len(partitions) <= MAX_PARTITIONS
        for topic, partition in partitions:
            self._lag(topic, partition).set(0)

    def lag(self, lag: Mapping[tuple[str, int], int]) -> None:
        """Records not read yet. Beyond MAX_PARTITIONS the worst partition of each topic."""
        worst: dict[str, int] = {}
        for (topic, partition), records in lag.items():
            worst[topic] = max(worst.get(topic, 0), records)
            if self._per_partition:
                self._lag(topic, partition).set(records)
        if not self._per_partition:
            for topic, records in worst.items():
                self._lag(topic, 0).set(records)

    def consumed(self, records: Mapping[str, int], event_time_ms: int) -> None:
        """Records of a committed cut by topic, and its newest event time (0: none)."""
        for topic, count in records.items():
            if topic in self._kind_of and count:
                self.add("events_consumed", count, topic=topic, kind=self._kind_of[topic])
                self._last_record = self._clock()
        if event_time_ms:
            self._event_time_ms = max(event_time_ms, self._event_time_ms or 0)

    def certain(self, watermark_ms: int) -> None:
        """How far event time has certainly come (0: not known yet)."""
        self._watermark_ms = watermark_ms

    _per_partition = True

    def _child(self, name: str, labels: Mapping[str, str]) -> Any:
        metric = self._metrics[name]
        return metric.labels(**labels) if labels else metric

    def _lag(self, topic: str, partition: int) -> Any:
        name = str(partition) if self._per_partition else "all"
        return self._child("consumer_lag_records", {"topic": topic, "partition": name})

    def _declare(self, name: str, declared: Declared) -> Counter | Gauge | Histogram:
        kind, help_, labels, buckets = declared
        full = PREFIX + name
        if kind == "counter":
            return Counter(full, help_, labels, registry=self.registry)
        if kind == "gauge":
            return Gauge(full, help_, labels, registry=self.registry)
        return Histogram(full, help_, labels, registry=self.registry, buckets=buckets)

    def _start_labels(self) -> None:
        """Every label set of which 0 is true before the first record: a rate needs a first value."""
        special: dict[str, list[dict[str, str]]] = {
            "events_consumed": [{"topic": t, "kind": k} for t, k in self._kind_of.items()],
            "checkpoint_failures": [{"reason": r} for r in CHECKPOINT_FAILURES],
            "producer_recreations": [{"reason": r} for r in RECREATIONS],
            "labels_joined": [
                {"task": t, "result": r} for t in self._closed["task"] for r in LABELLED
            ],
            "build_info": [{"kind": _release()}],
            "events_throttled": [{"kind": kind} for kind in THROTTLED],
            "exposures": [{"kind": path} for path in PATHS],
        }
        for name, (_, _, labels, _) in METRICS.items():
            if name in _NOT_BEFORE:
                continue
            known = special[name] if name in special else self._product(labels)
            for chosen in known if labels else ():
                self._child(name, chosen)

    def _product(self, labels: tuple[str, ...]) -> list[dict[str, str]]:
        chosen: list[dict[str, str]] = [{}]
        for label in labels:
            chosen = [{**row, label: value} for row in chosen for value in self._closed[label]]
        return chosen

    def _event_time_lag(self) -> float:
        return 0.0 if self._event_time_ms is None else self._clock() - self._event_time_ms / 1000

    def _watermark_lag(self) -> float:
        return self._clock() - self._watermark_ms / 1000 if self._watermark_ms else 0.0

    def _idle(self) -> float:
        return 0.0 if self._last_record is None else self._clock() - self._last_record


def _release() -> str:
    try:
        return version("stream-mtl")
    except PackageNotFoundError:  # run from a folder that was never installed
        return "unknown"
