"""The control of rehearsal: equally many gradient rows a step, all of them fresh."""

from __future__ import annotations

from collections import deque

from stream_mtl import Config
from stream_mtl.batch import Batch, concat


class Repeated:
    """Without rehearsal a step takes the fresh rows of the steps before beside its own, as many as would be rehearsed.

    So every row is learned from as often as a row with rehearsal is drawn. That is the fairer control: to count each fresh row twice in
    one step would give the gradient of counting it once. With rehearsal a step takes its fresh rows alone.
    """

    def __init__(self, config: Config) -> None:
        rehearsal = config.rehearsal
        steps = round(rehearsal.ratio) if rehearsal.loss == "none" else 0
        self._before: deque[Batch] = deque(maxlen=steps)

    def rows(self, fresh: Batch) -> Batch:
        rows = concat([*self._before, fresh])
        self._before.append(fresh)
        return rows
