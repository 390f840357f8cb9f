"""What the learner does differently after a drift alarm, or while it forgets.

Both signals come from the evaluation, which is part of the state, so the same log gives the same reactions. Off by default:
every number that changes nothing is the default of its setting.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from stream_mtl import config

_KNOWN = 0.0  # mean cosine below which a task counts as pulling against the others


@dataclass(frozen=True, slots=True)
class Adaptation:
    """How the coming steps differ from the configured ones."""

    rate: float = 1.0  # factor of the dense rate
    rehearsal: float = 1.0  # factor of rehearsal.ratio
    max_version_age: int | None = None  # of stored logits (the staleness rule); None: as configured


def adaptation(
    settings: config.Adapt, drifted: Collection[str], forgetting: Mapping[str, float | None]
) -> Adaptation:
    """`drifted`: tasks with a recent alarm; `forgetting`: of every task, best so far less now on its probes."""
    moving = bool(drifted)
    worst = max((lost for lost in forgetting.values() if lost is not None), default=0.0)
    return Adaptation(
        rate=settings.drift_rate if moving else 1.0,
        rehearsal=settings.forgetting_ratio if worst > settings.forgetting else 1.0,
        max_version_age=settings.drift_version_age
        if moving and settings.drift_version_age
        else None,
    )


def pulls_away(task: int, affinity_TT: Tensor) -> bool:
    """Whether a task's gradient has pointed against the mean of the others lately; False where nothing is known."""
    others_T = affinity_TT[task].clone()
    others_T[task] = float("nan")
    mean = others_T.nanmean()
    return bool(mean < _KNOWN)
