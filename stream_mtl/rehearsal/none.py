"""No rehearsal: the control that must forget."""

from __future__ import annotations

from stream_mtl import config
from stream_mtl.rehearsal.base import Draw


def none(rows: int, settings: config.Rehearsal) -> tuple[Draw, ...]:
    return ()
