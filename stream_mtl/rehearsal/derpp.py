"""DER++: labels of one draw, logits of another (Buzzega et al., NeurIPS 2020, eq. 6).

Half the rows each, where the paper draws twice as many: the gradient rows then equal those of ER.
"""

from __future__ import annotations

from stream_mtl import config
from stream_mtl.rehearsal.base import Draw


def derpp(rows: int, settings: config.Rehearsal) -> tuple[Draw, ...]:
    half = rows // 2
    return (Draw(rows - half, settings.beta, 0.0), Draw(half, 0.0, settings.alpha))
