"""What a fold says of itself to people: counts of the lineage, quality of every task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_mtl.config import Config
from stream_mtl.label_join import PATHS
from stream_mtl.parts import Parts
from stream_mtl.task_affinity import groups

# name in the summary and in the fold's totals
COUNTS = {
    "events_consumed": "events",
    "events_rejected": "rejected",
    "cuts": "cuts",
    "steps": "steps",
    "example_rows": "example_rows",
    "scored_rows": "scored_rows",
    "scores_published": "scores",
    "cuts_held_back": "held_back",
    "late_events": "late_events",
}

# of the newest rows: all that is of rows, and not of probe sets
WINDOWED = (
    "labels", "positives", "auc", "normalized_entropy", "calibration", "ece", "gauc", "ndcg", "rmse", "mae",
    "macro_f1", "accuracy",
)  # fmt: skip


def counted(totals: Mapping[str, int]) -> dict[str, int]:
    return {name: totals.get(total, 0) for name, total in COUNTS.items()}


def exposures(totals: Mapping[str, int]) -> dict[str, int]:
    """How many opened by which path; `withdrawn` are clicks' stand-ins that their impression took the place of."""
    return {path: totals.get(f"exposures_{path}", 0) for path in (*PATHS, "withdrawn")}


def decision_name(decision: Mapping[str, Any]) -> str:
    """Its kind, and what the gate said where it was asked; or that it was not carried out."""
    what = decision.get("verdict") or ("" if decision.get("done", True) else "refused")
    return f"{decision['kind']}: {what}" if what else str(decision["kind"])


def quality(parts: Parts, config: Config) -> dict[str, dict[str, Any]]:
    """Per task: its kind, what the evaluation says over all rows, lately, and of the newest, its memory, its experts, and each
    of its probe sets.
    """
    memory_rows = parts.learner.memory_rows()
    recent, newest = parts.evaluation.faded(), parts.evaluation.windowed()
    head_versions = parts.learner.head_versions()
    return {
        name: {
            "kind": config.tasks[name].kind,
            **of_task,
            "auc_recent": recent[name]["auc"],
            "normalized_entropy_recent": recent[name]["normalized_entropy"],
            "window": {key: value for key, value in newest[name].items() if key in WINDOWED},
            "memory_rows": memory_rows[name],
            "head_version": head_versions[name],
            "memory_overfit": parts.reactions.overfitting.get(name),
            "gate_entropy": parts.reactions.health.get(f"gate_entropy/{name}"),
            "expert_zero_rate": _zero_rate(parts.reactions.health, name),
            "probes": [
                {**of_set, "domain": parts.shop.items.domains.names[of_set["domain"]] or None}
                for of_set in parts.evaluation.probe_sets(name)
            ],
        }
        for name, of_task in parts.evaluation.summary().items()
    }


def _zero_rate(health: Mapping[str, float], task: str) -> float | None:
    """Of the deadest expert that the task's gate mixes; None without a mixture."""
    mixed = f"gate_share/{task}/"
    rates = [
        health[f"zero_rate/{name.removeprefix(mixed)}"] for name in health if name.startswith(mixed)
    ]
    return max(rates, default=None)


def experts(parts: Parts) -> dict[str, Any] | None:
    """How every expert and gate is (`health`), as of the newest look at the probes; None without any."""
    health = parts.reactions.health
    if not health:
        return None
    found: dict[str, Any] = {"zero_rate": {}, "gate_entropy": {}, "gate_share": {}}
    for key, value in health.items():
        kind, _, name = key.partition("/")
        found[kind][name] = value
    return found


def sharing(parts: Parts) -> dict[str, Any] | None:
    """Where gradients are compared: how far tasks pull the same way (None: never seen together), and whom to let share."""
    if not parts.learner.measures_affinity:
        return None
    cosine_TT, tasks = parts.learner.affinity(), parts.features.spec.tasks
    return {
        "cosines": {
            task: {
                other: None if value != value else value  # NaN
                for other, value in zip(tasks, cosine_T, strict=True)
                if other != task
            }
            for task, cosine_T in zip(tasks, cosine_TT.tolist(), strict=True)
        },
        "groups": [[tasks[task] for task in group] for group in groups(cosine_TT)],
    }
