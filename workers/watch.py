"""The observer that turns what a worker tells into metrics and into its health."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stream_mtl import metrics as declared
from stream_mtl.cut import CutResult
from stream_mtl.label_join import COUNTED_AS, PATHS
from stream_mtl.manifest import cut_number
from stream_mtl.metrics import Metrics
from stream_mtl.throttle import KINDS as THROTTLED
from stream_mtl.throttle import PREFIX as THROTTLED_AS
from workers.observer import CheckpointFacts, CutFacts, Fact, Phase, Quality, Silent

if TYPE_CHECKING:
    from stream_mtl.step_report import StepReport

_COUNTED = {  # metric -> its name among the counts of a cut
    "bare_purchases": "bare_purchases",
    "events_deduplicated": "duplicates",
    "events_late": "late_events",
    "events_uncounted": "uncounted_events",
    "recall_asked": "recall_asked",
    "recall_found": "recall_found",
    "recall_listed": "recall_listed",
    "rows_left_out": "left_out_rows",
}
_QUALITY_S = 2.0  # quality costs a summary: not at every cut


@dataclass(slots=True)
class Health:
    """What /healthz and /readyz answer. Healthy: the main loop ticked within max(30 s, 3 x the longest
    recent step). Ready: restored, partitions owned, breaker closed, and alive; while there is something to
    commit, the last commit is fresh too. Neither asks the broker: an outage must not restart the fleet."""

    clock: Callable[[], float] = time.monotonic
    ticked: float = field(default=0.0)
    step_seconds: float = 0.0
    phase: str = "starting"
    partitions: int = 0
    breaker: bool = False
    paused: bool = False
    away: bool = False
    committed: float | None = None
    lag: int = 0

    def __post_init__(self) -> None:
        self.ticked = self.clock()

    def limit(self) -> float:
        return max(30.0, 3 * self.step_seconds)

    def ailments(self) -> list[str]:
        silent = self.clock() - self.ticked
        if silent > self.limit():
            return [f"the main loop has not moved for {silent:.0f} s, allowed {self.limit():.0f}"]
        return []

    def unready(self) -> list[str]:
        reasons = self.ailments()
        if self.phase != "running":
            reasons.append(f"phase {self.phase}")
        if not self.partitions:
            reasons.append("owns no partitions")
        if self.away:
            reasons.append("the broker does not answer")
        if self.breaker:
            reasons.append("breaker open: too many rejects")
        if self.paused:
            reasons.append("paused by command: `stream-mtl control resume` reads on")
        if self.committed is not None and self.lag and not (self.paused or self.breaker):
            age = self.clock() - self.committed
            if age > self.limit():
                reasons.append(f"last commit {age:.0f} s ago with {self.lag} records waiting")
        return reasons


class Watch(Silent):
    """Fills `metrics` and `health`; called from the worker's main thread."""

    def __init__(self, metrics: Metrics, health: Health) -> None:
        self._metrics, self._health = metrics, health
        self._started = health.clock()
        self._asked = float("-inf")
        self._labels: dict[tuple[str, str], int] = {}
        self._resumed = False  # labels of the lineage before this worker, not looked at yet
        self._checkpoint_cut: int | None = None

    def phase(self, name: Phase, **facts: Fact) -> None:
        self.tick()
        self._health.phase = name
        self._resumed |= name in ("restoring", "rolling_forward")
        if name == "restoring" and facts.get("checkpoint"):
            self._checkpoint_cut = cut_number(str(facts["checkpoint"]))
        elif name == "rolling_forward":
            self._metrics.set("rollforward_remaining_cuts", float(facts.get("remaining", 0)))
        elif name == "restored":
            self._metrics.set("rollforward_remaining_cuts", 0)
            seconds = float(facts.get("seconds", self._health.clock() - self._started))
            self._metrics.set("restore_duration_seconds", seconds)
        elif name == "running" and facts.get("partitions"):
            self._health.away = False
            owned = [part.rpartition("-") for part in str(facts["partitions"]).split(",")]
            self._health.partitions = len(owned)
            self._metrics.own([(topic, int(number)) for topic, _, number in owned])

    def tick(self) -> None:
        self._health.ticked = self._health.clock()

    def cut(self, result: CutResult, facts: CutFacts) -> None:
        self.tick()
        # the longest step fades, so that one slow step does not hide a later stall for ever
        self._health.step_seconds = max(facts.step_seconds, 0.9 * self._health.step_seconds)
        if facts.replayed:
            self._metrics.add("rollforward_cuts")
            return
        self._health.committed = self._health.clock()
        self._health.away = False
        self._health.lag = sum(facts.lag.values())
        self._flow(result, facts)
        self._learning(result, facts)
        if self._health.clock() - self._asked >= _QUALITY_S:
            self._asked = self._health.clock()
            self._quality(facts.quality())

    def holding(self, paused: bool, lag: Mapping[tuple[str, int], int]) -> None:
        self.tick()
        if self._health.paused and not paused:
            self._health.committed = (
                None  # the stillness was asked for: freshness counts from here on
            )
        self._health.paused = paused
        self._health.lag = sum(lag.values())
        self._metrics.set("paused", float(paused))
        self._metrics.lag(lag)

    def checkpoint(self, facts: CheckpointFacts) -> None:
        metrics = self._metrics
        if facts.failure:
            known = facts.failure in declared.CHECKPOINT_FAILURES
            metrics.add("checkpoint_failures", reason=facts.failure if known else "other")
            return
        self._checkpoint_cut = facts.cut
        metrics.set("checkpoint_size_bytes", facts.size_bytes)
        metrics.set("last_checkpoint_timestamp_seconds", time.time())
        for phase in declared.PHASES:
            seconds = float(getattr(facts, f"{phase}_seconds"))
            metrics.observe("checkpoint_duration_seconds", seconds, phase=phase)

    def trouble(self, kind: str, **facts: Fact) -> None:
        metrics = self._metrics
        match kind:
            case "commit_aborted":
                metrics.add("commits", result="aborted")
            case "commit_indefinite":
                metrics.add("commits", result="indefinite")
            case "producer_recreated":
                known = facts.get("reason") in declared.RECREATIONS
                metrics.add(
                    "producer_recreations", reason=str(facts["reason"]) if known else "other"
                )
            case "broker":
                self._health.away = bool(facts["away"])
            case "fenced":
                metrics.add("fenced")
            case "digest_mismatch":
                metrics.add("digest_mismatches")
            case "gap":
                metrics.add("gap_records", float(facts["records"]), topic=str(facts["topic"]))
            case "unstable":
                topic = str(facts["topic"])
                metrics.set("stable_offset_lag_records", float(facts["offsets"]), topic=topic)
                metrics.set("stable_offset_stuck_seconds", float(facts["seconds"]), topic=topic)
            case "breaker":
                self._health.breaker = bool(facts["open"])
                metrics.set("breaker_open", float(facts["open"]))
            case "crash_suspects":
                metrics.set("crash_suspect_records", float(facts["records"]))
            case "headroom":
                metrics.set("replay_headroom_seconds", float(facts["seconds"]))
            case "disk":
                metrics.set("checkpoint_disk_free_bytes", float(facts["free"]))

    def _flow(self, result: CutResult, facts: CutFacts) -> None:
        metrics, now = self._metrics, time.time()
        metrics.consumed(facts.records, result.event_time)
        metrics.certain(facts.watermark_ms)
        metrics.lag(facts.lag)
        for reject in result.rejects:
            if reject.stage != "learner":  # a row, not an event
                metrics.add("events_rejected", reason=reject.reason)
            metrics.add("dlq_records", reason=reject.reason)
        for name, count in _COUNTED.items():
            metrics.add(name, result.counts.get(count, 0))
        for path in PATHS:
            metrics.add("exposures", result.counts.get(COUNTED_AS[path], 0), kind=path)
        for kind in THROTTLED:
            metrics.add("events_throttled", result.counts.get(THROTTLED_AS + kind, 0), kind=kind)
        metrics.add("commits", result="committed")
        metrics.observe("commit_duration_seconds", facts.commit_seconds)
        if facts.open_seconds:
            metrics.observe("transaction_open_seconds", facts.open_seconds)
        metrics.set("last_commit_timestamp_seconds", now)
        metrics.set("ledger_sequence", result.number)
        if self._checkpoint_cut is not None:
            metrics.set("rollforward_distance_cuts", result.number - self._checkpoint_cut)
        metrics.set("publish_held", float(result.counts.get("held_back", 0)))
        scores = sum(output.value is not None for output in result.outputs)
        metrics.add("scores_published", scores)
        if scores and result.event_time:
            metrics.observe("score_staleness_seconds", max(0.0, now - result.event_time / 1000))

    def _learning(self, result: CutResult, facts: CutFacts) -> None:
        metrics = self._metrics
        metrics.observe("train_step_duration_seconds", facts.step_seconds)
        for report in facts.reports:
            record_report(metrics, report)
        for drift in result.drifts:
            metrics.add("drift_alarms", task=drift.task)
        for decision in result.decisions:
            self._gated(decision)

    def _gated(self, decision: Mapping[str, object]) -> None:
        verdict = str(decision.get("verdict", "")).replace(" ", "_")
        match decision["kind"]:
            case "publish_gate":
                self._metrics.add("publish_verdicts", verdict=verdict)
            case "rollback" if decision.get("done") and "repeated" not in decision:
                self._metrics.add("rollbacks")
            case "fine_tune":
                task = str(decision["task"])
                self._metrics.add("fine_tunings", task=task, verdict=verdict)

    def _quality(self, quality: Quality) -> None:
        for task, facts in quality.items():
            self._count_labels(task, facts)
            for name, metric, labels in _QUALITY:
                value = _of(facts, name)
                if isinstance(value, (int, float)):
                    self._metrics.set(metric, float(value), task=task, **labels)
            self._forgotten(task, facts.get("probes"))
        self._resumed = False

    def _forgotten(self, task: str, probes: object) -> None:
        """Of domains that are named in the config, and the worst of all others; of several spans the worst."""
        worst: dict[str, float] = {}
        for one in probes if isinstance(probes, list) else ():
            if one["best"] is not None and one["now"] is not None:
                domain = one["domain"] if one["domain"] in self._metrics.domains else declared.OTHER
                worst[domain] = max(worst.get(domain, 0.0), one["best"] - one["now"])
        for domain, lost in worst.items():
            self._metrics.set("forgetting_by_domain", lost, task=task, domain=domain)

    def _count_labels(self, task: str, facts: Mapping[str, object]) -> None:
        """The summary counts the lineage; the counter grows by what is new since the last look. A worker that goes on with a
        lineage begins at its first look: all labels of years at once would be a burst in every rate.
        """
        labels, positives = facts.get("labels"), facts.get("positives")
        if not isinstance(labels, int):
            return
        totals = {"value": labels}
        if isinstance(positives, int):
            totals = {"positive": positives, "negative": labels - positives}
        for result, total in totals.items():
            fresh = total - self._labels.get((task, result), 0)
            self._labels[task, result] = total
            if not self._resumed:
                self._metrics.add("labels_joined", max(0, fresh), task=task, result=result)


_QUALITY: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("auc", "prequential_auc", {"window": "lifetime"}),
    ("auc_recent", "prequential_auc", {"window": "faded"}),
    ("window.auc", "prequential_auc", {"window": "newest"}),
    ("normalized_entropy", "prequential_normalized_entropy", {"window": "lifetime"}),
    ("normalized_entropy_recent", "prequential_normalized_entropy", {"window": "faded"}),
    ("window.normalized_entropy", "prequential_normalized_entropy", {"window": "newest"}),
    *(
        (f"{group}{measure}", "prequential_quality", {"measure": measure, "window": window})
        for group, window in (("", "lifetime"), ("window.", "newest"))
        for measure in declared.MEASURES
    ),
    ("calibration", "calibration_ratio", {}),
    ("forgetting", "forgetting", {}),
    ("backward_transfer", "transfer", {"kind": "backward"}),
    ("forward_transfer", "transfer", {"kind": "forward"}),
    ("memory_rows", "replay_memory_rows", {}),
    ("memory_overfit", "memory_overfit", {}),
    ("gate_entropy", "gate_entropy", {}),
    ("expert_zero_rate", "expert_zero_rate", {}),
    ("head_version", "head_version", {}),
)


def _of(facts: Mapping[str, object], name: str) -> object:
    """A fact, or one of a group of facts ("group.name")."""
    group, _, inner = name.rpartition(".")
    within = facts.get(group) if group else facts
    return within.get(inner) if isinstance(within, Mapping) else None


def record_report(metrics: Metrics, report: StepReport) -> None:
    """What a step of the learner says of itself."""
    if report.nonfinite:
        metrics.add("nonfinite_batches")
        return
    metrics.set("grad_norm", report.grad_norm)
    if report.rows:
        metrics.set("rehearsal_ratio", report.rehearsed / report.rows)
    for task, loss in report.losses.items():
        metrics.set("loss", loss, task=task)
        metrics.add("train_steps", task=task)
    for task, weight in report.weights.items():
        metrics.set("task_weight", weight, task=task)
