"""DER: remembered rows with the logits they had when they were learned, not their labels (Buzzega et al. 2020, eq. 4).

Rare positives in a memory that is drawn from again and again are learned by heart; what the model once said of
a row is the softer lesson.
"""

from __future__ import annotations

from stream_mtl import config
from stream_mtl.rehearsal.base import Draw


def der(rows: int, settings: config.Rehearsal) -> tuple[Draw, ...]:
    return (Draw(rows, 0.0, settings.alpha),)
