"""Rollback: what an earlier state had learned, in the place of what the present one has.

Weights, moments, balancer and base rates of the learner, the towers' tables and the gate's last good model go back.
Offsets, joins, catalogue, histories, memories, evaluation and rows that wait stay, so nothing is read again. Counts of
steps stay too: memories and samplers tell ages by them. Names of state decide, so a part that is new is either
learned or kept, and a test asks which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from stream_mtl.cut import RollbackTarget
from stream_mtl.errors import StateError
from stream_mtl.state import State, misfits
from stream_mtl.task_set import grown

ROLLBACK = "rollback"  # kind of the command, and reason of the lineage that it begins
PROMOTE = "promote"  # of another lineage: what its checkpoint had learned, in the same way
CHALLENGERS = (
    "challengers"  # where other lineages' checkpoints lie, and what their names begin with
)

LEARNED = (
    "learner/",
    "towers/table_RD",
    "towers/square_R",
    "towers/map_DD",
    "towers/map_square_DD",
    "towers/steps",
    "publish_gate/champion/",
    "publish_gate/held",
    "publish_gate/age",
)
KEPT_OF_LEARNER = (
    "learner/version",
    "learner/skipped",
    "learner/memory/",
    "learner/sampler/",
    "learner/fine_tuning/newest/",
)
_WHOLE = ("towers/", "publish_gate/held", "learner/table_RH")  # no added task brings these
_TASKS = "evaluation/tasks"
_VECTORS, _ROWS, _LABELS = "towers/vectors/generation", "publish_gate/rows/", "publish_gate/labels"


def is_learned(name: str) -> bool:
    """Whether a rollback takes this part of the state from the checkpoint."""
    if name == "learner/skipped_in_a_row":
        return True  # the broken steps were of the model that is given up
    return name.startswith(LEARNED) and not name.startswith(KEPT_OF_LEARNER)


def tasks_afresh(now: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """Tasks that were added after the checkpoint: their own parts begin anew. StateError where others differ."""
    here, there = list(now[_TASKS]), list(saved[_TASKS])
    if here[: len(there)] != there:
        raise StateError(
            f"the checkpoint is of the tasks {', '.join(there)}, the present ones are {', '.join(here)}; only"
            " tasks that were added since may differ"
        )
    return here[len(there) :]


def rolled_back(
    now: Mapping[str, Any], saved: Mapping[str, Any], fresh: Mapping[str, Any]
) -> State:
    """`now` with what `saved` had learned; `fresh`: the empty state of the present tasks.

    Raises StateError naming what does not fit.
    """
    added = tasks_afresh(now, saved)
    old = {name: value for name, value in saved.items() if is_learned(name)}
    empty = {name: value for name, value in fresh.items() if is_learned(name)}
    if added:  # what they bring is missing in the old state, and what is as wide as the tasks is narrower there
        whole = {n: v for n, v in empty.items() if n.startswith(_WHOLE)}
        faults = misfits(whole, {n: v for n, v in old.items() if n.startswith(_WHOLE)})
        learned = {n: v for n, v in _grown(old, fresh).items() if is_learned(n)}
        faults += misfits(empty, learned)
    else:
        learned, faults = old, misfits(empty, old)
    if faults:
        raise StateError(
            f"the checkpoint does not fit the present model: {'; '.join(faults[:3])}; it was written with"
            " other settings"
        )
    return {**now, **learned, **_begun_again(now)}


def _grown(old: Mapping[str, Any], fresh: Mapping[str, Any]) -> State:
    try:
        return grown(old, fresh)
    except (ValueError, RuntimeError) as error:
        raise StateError(f"the checkpoint does not fit the present tasks: {error}") from error


def _begun_again(now: Mapping[str, Any]) -> State:
    """What was computed or said by the model that is given up."""
    again: State = {}
    for name, value in now.items():
        if name == _VECTORS:
            again[name] = torch.full_like(
                value, -1
            )  # made anew from the table when they are asked for
        elif name.startswith(_ROWS):
            again[name] = value[:0]
        elif name == _LABELS:
            again[name] = 0
    return again


def targets_of(decisions: Iterable[Mapping[str, Any]]) -> dict[str, RollbackTarget]:
    """What the worker had decided of the rollbacks of a cut, from its ledger record."""
    targets: dict[str, RollbackTarget] = {}
    for one in decisions:
        if "repeated" not in one and (one["kind"] == ROLLBACK or _names_one(one)):
            targets.setdefault(
                str(one["command_id"]),
                RollbackTarget(
                    one.get("checkpoint", ""),
                    one.get("checkpoint_cut", 0),
                    one.get("state_digest", ""),
                    tuple(one.get("afresh", ())),
                    one.get("reason", ""),
                ),
            )
    return targets


def begun(decisions: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The decision by which a cut began a rollback; None where it did not."""
    for one in decisions:
        if _names_one(one) and one.get("done") and "repeated" not in one:
            return dict(one)
    return None


def _names_one(decision: Mapping[str, Any]) -> bool:
    return decision["kind"] in (ROLLBACK, PROMOTE) and "checkpoint" in decision
