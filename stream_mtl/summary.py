"""What a fold says of itself to people: counts of the lineage, quality of every task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_mtl.config import Config
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
}

# of the newest rows: all that is of rows, and not of probe sets
WINDOWED = (
    "labels", "positives", "auc", "normalized_entropy", "calibration", "ece", "gauc", "ndcg", "rmse", "macro_f1",
)  # fmt: skip


def counted(totals: Mapping[str, int]) -> dict[str, int]:
    return {name: totals.get(total, 0) for name, total in COUNTS.items()}


def quality(parts: Parts, config: Config) -> dict[str, dict[str, Any]]:
    """Per task: its kind, what the evaluation says over all rows, lately, and of the newest, its memory, its experts' gate."""
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
        }
        for name, of_task in parts.evaluation.summary().items()
    }


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
