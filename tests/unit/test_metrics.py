"""The Prometheus metrics."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from stream_mtl.config import Config
from stream_mtl.cut import CutResult, DriftAlarm, Output, Record, Reject
from stream_mtl.metrics import MAX_PARTITIONS, METRICS, Metrics
from workers.observer import CheckpointFacts, CutFacts
from workers.watch import Health, Watch

PINNED = {
    "assigned_partitions": (),
    "breaker_open": (),
    "build_info": ("kind",),
    "calibration_ratio": ("task",),
    "checkpoint_disk_free_bytes": (),
    "checkpoint_duration_seconds": ("phase",),
    "checkpoint_failures": ("reason",),
    "checkpoint_size_bytes": (),
    "commit_duration_seconds": (),
    "commits": ("result",),
    "consumer_lag_records": ("topic", "partition"),
    "crash_suspect_records": (),
    "digest_mismatches": (),
    "dlq_records": ("reason",),
    "drift_alarms": ("task",),
    "fine_tunings": ("task", "verdict"),
    "head_version": ("task",),
    "publish_held": (),
    "publish_verdicts": ("verdict",),
    "gate_entropy": ("task",),
    "memory_overfit": ("task",),
    "event_time_lag_seconds": (),
    "events_consumed": ("topic", "kind"),
    "bare_purchases": (),
    "events_deduplicated": (),
    "events_throttled": ("kind",),
    "events_uncounted": (),
    "rows_left_out": (),
    "events_rejected": ("reason",),
    "fenced": (),
    "events_late": (),
    "exposures": ("kind",),
    "forgetting": ("task",),
    "forgetting_by_domain": ("task", "domain"),
    "prequential_quality": ("task", "measure", "window"),
    "expert_zero_rate": ("task",),
    "gap_records": ("topic",),
    "grad_norm": (),
    "labels_joined": ("task", "result"),
    "last_checkpoint_timestamp_seconds": (),
    "last_commit_timestamp_seconds": (),
    "ledger_sequence": (),
    "loss": ("task",),
    "nonfinite_batches": (),
    "paused": (),
    "prequential_auc": ("task", "window"),
    "prequential_normalized_entropy": ("task", "window"),
    "producer_recreations": ("reason",),
    "recall_asked": (),
    "recall_found": (),
    "recall_listed": (),
    "rehearsal_ratio": (),
    "replay_headroom_seconds": (),
    "replay_memory_rows": ("task",),
    "restore_duration_seconds": (),
    "rollforward_cuts": (),
    "rollforward_distance_cuts": (),
    "rollforward_remaining_cuts": (),
    "rollbacks": (),
    "score_staleness_seconds": (),
    "scores_published": (),
    "source_idle_seconds": (),
    "stable_offset_lag_records": ("topic",),
    "stable_offset_stuck_seconds": ("topic",),
    "task_weight": ("task",),
    "train_step_duration_seconds": (),
    "train_steps": ("task",),
    "transaction_open_seconds": (),
    "transfer": ("task", "kind"),
    "watermark_lag_seconds": (),
}
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def _series(metrics: Metrics) -> Series:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, frozenset(s.labels.items())): s.value for f in families for s in f.samples}


def _value(metrics: Metrics, name: str, **labels: str) -> float:
    return _series(metrics)[f"stream_mtl_{name}", frozenset(labels.items())]


def _watch(config: Config | None = None) -> tuple[Metrics, Health, Watch]:
    metrics, health = Metrics(config or Config(), CollectorRegistry()), Health()
    return metrics, health, Watch(metrics, health)


def _cut(number: int = 0, **more: object) -> CutResult:
    fields: dict[str, object] = {
        "outputs": (),
        "rejects": (),
        "counts": {},
        "outputs_digest": "",
        "digest": "",
        "event_time": 0,
        **more,
    }
    return CutResult(number=number, **fields)  # type: ignore[arg-type]


def test_the_list_of_metrics_and_labels_is_pinned() -> None:
    """Dashboards and alerts build on it: a change is to be seen in review."""
    assert {name: labels for name, (_, _, labels, _) in METRICS.items()} == PINNED


def test_labels_come_from_the_closed_list_only() -> None:
    allowed = {
        "task",
        "topic",
        "partition",
        "kind",
        "result",
        "reason",
        "phase",
        "window",
        "domain",
        "group",
        "verdict",
        "measure",
    }
    assert {label for labels in PINNED.values() for label in labels} <= allowed


def test_a_worker_of_usual_size_has_at_most_500_series() -> None:
    """4 tasks, 3 topics of 12 partitions."""
    tasks = {name: {"kind": "binary"} for name in "abcd"}
    metrics, _, _ = _watch(Config.model_validate({"tasks": tasks}))
    metrics.own([(topic, n) for topic in ("shop.events", "x", "y") for n in range(12)])
    assert len(_series(metrics)) <= 500


def test_counters_are_there_with_0_before_anything_happened() -> None:
    """Otherwise the first failure is invisible to a rate."""
    metrics, _, _ = _watch()
    assert _value(metrics, "commits_total", result="indefinite") == 0
    assert _value(metrics, "events_rejected_total", reason="not_json") == 0
    assert _value(metrics, "labels_joined_total", task="purchase", result="positive") == 0
    assert not [name for name, _ in _series(metrics) if name.endswith("_created")]


def test_quality_that_nothing_is_known_of_is_not_0() -> None:
    """A normalised entropy of 0 is perfect, a gate's of 0 a collapse: alerts and people would believe it."""
    metrics, _, watch = _watch()
    names = ("auc", "normalized_entropy", "quality")
    quiet = [f"stream_mtl_prequential_{name}" for name in names]
    quiet += [f"stream_mtl_{name}" for name in ("forgetting", "gate_entropy", "calibration_ratio")]
    assert not {name for name, _ in _series(metrics)} & set(quiet)
    watch._quality(
        {"click": {"auc": 0.7, "labels": 10, "positives": 2, "normalized_entropy": None}}
    )
    assert _value(metrics, "prequential_auc", task="click", window="lifetime") == 0.7
    assert "stream_mtl_prequential_normalized_entropy" not in {n for n, _ in _series(metrics)}


def test_every_measure_of_a_task_s_kind_is_shown_and_its_labels_are_counted() -> None:
    """Of a rating there are neither yes nor no."""
    metrics, _, watch = _watch()
    of_task = {"labels": 12, "positives": None, "rmse": 0.9, "window": {"rmse": 0.8, "mae": 0.7}}
    watch._quality({"click": of_task})
    told = {("rmse", "lifetime"): 0.9, ("rmse", "newest"): 0.8, ("mae", "newest"): 0.7}
    for (measure, window), value in told.items():
        labels = {"task": "click", "measure": measure, "window": window}
        assert _value(metrics, "prequential_quality", **labels) == value
    assert _value(metrics, "labels_joined_total", task="click", result="value") == 12


def test_a_worker_that_goes_on_counts_its_own_labels_alone() -> None:
    metrics, _, watch = _watch()
    watch.phase("restoring", checkpoint="ck1-000000000005-e55d729c-501f3b4d1bf30208", cut=5)
    for labels in (1_000_000, 1_000_010):
        watch._quality({"click": {"labels": labels, "positives": labels // 10}})
    assert _value(metrics, "labels_joined_total", task="click", result="positive") == 1
    assert _value(metrics, "labels_joined_total", task="click", result="negative") == 9


def test_forgetting_is_told_by_domain() -> None:
    """Of those that the config names; of all others the worst. What was not measured says nothing."""
    metrics = Metrics(Config.model_validate({"features": {"domains": ["fashion"]}}))
    probe = {"rows": 9, "served": None, "first": 0.6}
    sets = [
        {**probe, "domain": "fashion", "best": 0.8, "now": 0.7},
        {**probe, "domain": "books", "best": 0.9, "now": 0.6},
        {**probe, "domain": "toys", "best": 0.9, "now": 0.85},
        {**probe, "domain": "new", "best": None, "now": None},
    ]
    Watch(metrics, Health())._quality({"click": {"labels": 1, "positives": 0, "probes": sets}})
    for domain, lost in (("fashion", 0.1), ("other", 0.3)):
        found = _value(metrics, "forgetting_by_domain", task="click", domain=domain)
        assert found == pytest.approx(lost)


def test_many_partitions_share_one_series_a_topic() -> None:
    metrics, _, _ = _watch()
    metrics.own([("shop.events", n) for n in range(MAX_PARTITIONS + 1)])
    metrics.lag({("shop.events", 3): 7, ("shop.events", 4): 9})
    assert _value(metrics, "consumer_lag_records", topic="shop.events", partition="all") == 9
    assert (
        len([1 for name, _ in _series(metrics) if name == "stream_mtl_consumer_lag_records"]) == 1
    )


def test_a_committed_cut_is_counted() -> None:
    metrics, _, watch = _watch()
    watch.phase("running", partitions="shop.events-0,shop.events-1")
    record = Record("shop.events", 0, 1, None, b"{")
    result = _cut(
        7,
        outputs=(Output("user:u", b"{}", 5), Output("user:v", None, 5)),
        rejects=(Reject(record, "not_json", "serde"),),
        counts={
            "events": 3,
            "duplicates": 1,
            "recall_asked": 5,
            "recall_found": 4,
            "recall_listed": 2,
            "held_back": 1,
        },
        event_time=5,
        drifts=(DriftAlarm("purchase", "entropy", True),),
        decisions=(
            {"kind": "publish_gate", "verdict": "roll back", "held": True, "reasons": []},
            {"kind": "fine_tune", "task": "click", "verdict": "promote"},
        ),
    )
    quality = {
        "click": {
            "labels": 10,
            "positives": 2,
            "auc": 0.7,
            "forgetting": None,
            "backward_transfer": -0.02,
            "window": {"auc": 0.6, "normalized_entropy": None},
        }
    }
    watch.cut(
        result,
        CutFacts(
            step_seconds=0.1,
            records={"shop.events": 3},
            lag={("shop.events", 1): 4},
            quality=lambda: quality,
        ),
    )
    expected: list[tuple[str, dict[str, str], float]] = [
        ("events_consumed_total", {"topic": "shop.events", "kind": "event"}, 3),
        ("events_rejected_total", {"reason": "not_json"}, 1),
        ("dlq_records_total", {"reason": "not_json"}, 1),
        ("events_deduplicated_total", {}, 1),
        ("scores_published_total", {}, 1),
        ("recall_asked_total", {}, 5),
        ("recall_found_total", {}, 4),
        ("recall_listed_total", {}, 2),
        ("commits_total", {"result": "committed"}, 1),
        ("ledger_sequence", {}, 7),
        ("consumer_lag_records", {"topic": "shop.events", "partition": "1"}, 4),
        ("labels_joined_total", {"task": "click", "result": "negative"}, 8),
        ("prequential_auc", {"task": "click", "window": "lifetime"}, 0.7),
        ("prequential_auc", {"task": "click", "window": "newest"}, 0.6),
        ("transfer", {"task": "click", "kind": "backward"}, -0.02),
        ("assigned_partitions", {}, 2),
        ("drift_alarms_total", {"task": "purchase"}, 1),
        ("drift_alarms_total", {"task": "click"}, 0),
        ("publish_held", {}, 1),
        ("publish_verdicts_total", {"verdict": "roll_back"}, 1),
        ("publish_verdicts_total", {"verdict": "promote"}, 0),
        ("fine_tunings_total", {"task": "click", "verdict": "promote"}, 1),
    ]
    for name, labels, value in expected:
        assert _value(metrics, name, **labels) == value, name


def test_a_cut_that_is_rolled_forward_publishes_nothing() -> None:
    """Roll-forward has its own counter: nothing was committed."""
    metrics, _, watch = _watch()
    watch.cut(_cut(outputs=(Output("user:u", b"{}", 5),)), CutFacts(step_seconds=0, replayed=True))
    assert _value(metrics, "rollforward_cuts_total") == 1
    assert _value(metrics, "scores_published_total") == 0
    assert _value(metrics, "commits_total", result="committed") == 0


def test_the_distance_to_the_checkpoint_is_what_a_restart_replays() -> None:
    metrics, _, watch = _watch()
    watch.checkpoint(CheckpointFacts(cut=3, size_bytes=10))
    watch.cut(_cut(8), CutFacts(step_seconds=0))
    assert _value(metrics, "rollforward_distance_cuts") == 5


def test_an_unforeseen_reason_counts_as_other() -> None:
    """Label sets are closed, whatever an error says."""
    metrics, _, watch = _watch()
    watch.checkpoint(CheckpointFacts(cut=1, failure="the moon"))
    watch.trouble("producer_recreated", reason="the moon")
    assert _value(metrics, "checkpoint_failures_total", reason="other") == 1
    assert _value(metrics, "producer_recreations_total", reason="other") == 1


@pytest.mark.parametrize("metric,labels", sorted(PINNED.items()))
def test_every_metric_has_help(metric: str, labels: tuple[str, ...]) -> None:
    assert METRICS[metric][1]


def test_the_watermark_shows_how_old_the_newest_final_label_is() -> None:
    """It stands still while one partition does; the newest event time does not."""
    metrics = Metrics(Config(), clock=lambda: 1_000.0)
    watch = Watch(metrics, Health())
    assert _value(metrics, "watermark_lag_seconds") == 0
    watch.cut(_cut(event_time=990_000), CutFacts(step_seconds=0, watermark_ms=400_000))
    assert _value(metrics, "watermark_lag_seconds") == 600
    assert _value(metrics, "event_time_lag_seconds") == 10


def test_what_waits_behind_an_open_transaction_is_shown_until_it_ends() -> None:
    metrics, _, watch = _watch()
    assert _value(metrics, "stable_offset_lag_records", topic="shop.events") == 0
    watch.trouble("unstable", topic="shop.events", offsets=12, seconds=30.0)
    assert _value(metrics, "stable_offset_lag_records", topic="shop.events") == 12
    assert _value(metrics, "stable_offset_stuck_seconds", topic="shop.events") == 30
    watch.trouble("unstable", topic="shop.events", offsets=0, seconds=0.0)
    assert _value(metrics, "stable_offset_lag_records", topic="shop.events") == 0
    assert _value(metrics, "stable_offset_stuck_seconds", topic="shop.events") == 0


def test_a_paused_worker_shows_that_and_its_lag() -> None:
    """No cut tells of the lag then."""
    config = Config()
    metrics = Metrics(config)
    metrics.own([("shop.events", 0)])
    watch = Watch(metrics, Health())
    watch.holding(True, {("shop.events", 0): 71})
    assert _value(metrics, "paused") == 1
    assert _value(metrics, "consumer_lag_records", topic="shop.events", partition="0") == 71
    watch.holding(False, {("shop.events", 0): 71})
    assert _value(metrics, "paused") == 0


def test_a_rollback_counts_once_however_often_it_was_sent() -> None:
    metrics = Metrics(Config())
    watch = Watch(metrics, Health())
    done = {"kind": "rollback", "command_id": "b", "done": True}
    for decision in (done, {**done, "repeated": 3}, {**done, "done": False}):
        result = CutResult(0, (), (), {}, "", "", 0, (decision,))
        watch.cut(result, CutFacts(step_seconds=0.1))
    assert _value(metrics, "rollbacks_total") == 1
