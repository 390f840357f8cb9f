"""Rehearsal: what remembered rows add to the loss of a step."""

from __future__ import annotations

from stream_mtl.rehearsal.base import Rehearsal
from stream_mtl.rehearsal.der import der
from stream_mtl.rehearsal.derpp import derpp
from stream_mtl.rehearsal.er import er
from stream_mtl.rehearsal.none import none

REHEARSALS: dict[str, Rehearsal] = {
    "der": der,
    "der++": derpp,
    "er": er,
    "none": none,
}
