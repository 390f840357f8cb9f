"""What a call of the join has made known so far, and how a label becomes known."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from stream_mtl.events import Exposure, Outcome
from stream_mtl.join_state import Open


@dataclass(slots=True)
class Emitting:
    """What one call has made known so far."""

    user_id: str
    exposures: list[Exposure] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    bare: int = 0  # purchases of what their user was never shown and never clicked


def row(exposure: Open, positive: Collection[int]) -> tuple[float, ...]:
    """1 of the items with these indices, 0 of the others."""
    if not positive:  # by far the most
        return (0.0,) * len(exposure.items)
    return tuple([1.0 if i in positive else 0.0 for i in range(len(exposure.items))])


def correct(
    exposure: Open, tasks: tuple[str, ...], index: int, label: float, at: int, out: Emitting
) -> None:
    """Repair the label of one item; the others are left as the earlier revision said."""
    told = tuple(label if i == index else None for i in range(len(exposure.items)))
    emit(exposure, {task: told for task in tasks}, at, out, correction=True)


def emit(
    exposure: Open,
    labels: dict[str, tuple[float | None, ...]],
    time_ms: int,
    out: Emitting,
    *,
    correction: bool = False,
    closed: bool = False,
    provisional: bool = False,
) -> None:
    """The next revision of the exposure's labels."""
    exposure.revision += 1
    out.outcomes.append(
        Outcome(
            exposure_id=exposure.exposure_id,
            user_id=out.user_id,
            revision=exposure.revision,
            time_ms=time_ms,
            labels=labels,
            correction=correction,
            closed=closed,
            provisional=provisional,
        )
    )
