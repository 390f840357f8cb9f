"""Rehearsal: what remembered rows add to a step."""

from __future__ import annotations

from stream_mtl.rehearsal.agem import agem
from stream_mtl.rehearsal.base import Rehearsal
from stream_mtl.rehearsal.der import der
from stream_mtl.rehearsal.derpp import derpp
from stream_mtl.rehearsal.er import er
from stream_mtl.rehearsal.er_ace import PresentClasses
from stream_mtl.rehearsal.lwf import Teacher
from stream_mtl.rehearsal.none import Nothing, none

REHEARSALS: dict[str, Rehearsal] = {
    "agem": Rehearsal(agem, Nothing),
    "der": Rehearsal(der, Nothing),
    "der++": Rehearsal(derpp, Nothing),
    "er": Rehearsal(er, Nothing),
    "er_ace": Rehearsal(er, PresentClasses),
    "lwf": Rehearsal(none, Teacher),
    "none": Rehearsal(none, Nothing),
}
