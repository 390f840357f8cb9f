"""Acknowledgements: one record for each command of a cut, saying what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from schemas.scores import Ack, CheckpointRef
from stream_mtl.cut import Cut, Output

_SAID = ("kind", "done", "reason", "repeated", "counts")


def acknowledgements(
    decisions: Iterable[Mapping[str, Any]], cut: Cut, lineage: str
) -> list[Output]:
    """Of the decisions that answer a command; pure, so a cut that is sent again says the same."""
    return [_ack(decision, cut, lineage) for decision in decisions if decision.get("command_id")]


def _ack(decision: Mapping[str, Any], cut: Cut, lineage: str) -> Output:
    checkpoint = decision.get("checkpoint")
    ack = Ack(
        command_id=decision["command_id"],
        cut=cut.number,
        lineage=lineage,
        published_at=cut.published_at or 0,
        checkpoint=CheckpointRef(name=checkpoint, cut=decision["checkpoint_cut"])
        if checkpoint
        else None,
        **{name: decision[name] for name in _SAID if name in decision},
    )
    return Output(
        ack.command_id, ack.model_dump_json(exclude_none=True).encode(), cut.published_at or 0
    )
