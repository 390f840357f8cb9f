"""At most a share of what is learned and judged is one user's: whole lists beyond it are left out.

A share of single batches would harm an honest shop: what a person saw in one visit becomes known at the same time and
is learned in the same step, a tenth of it. So the share is of the rows of some dozens of steps (`user_share`), with
room for a visit. Left out are rows, not lowered in weight: steps stay as full of other people's rows as without them.
Neither are they judged: else one user could trip a drift alarm, or decide what the publish gate holds back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from stream_mtl.batch import Batch
from stream_mtl.features import Rows
from stream_mtl.settings_defence import Defence
from stream_mtl.state import State
from stream_mtl.user_share import UserShare

HALF_LIFE = 50_000  # rows; a hundred steps


class RowLimit:
    def __init__(self, settings: Defence) -> None:
        self._share = UserShare(settings.user_share, settings.least_rows, HALF_LIFE)
        self._left_out = 0

    def limited(self, rows: Rows) -> Rows:
        """What is left of new rows. Corrections stay: what is remembered of anybody is to be right."""
        keep_B = self._within(rows.batch)
        if bool(keep_B.all()):
            return replace(rows, early=self.within(rows.early)) if len(rows.early) else rows
        batch = rows.batch.select(keep_B)
        same = rows.told_BT is rows.batch.label_BT
        return replace(
            rows,
            batch=batch,
            served_BC=rows.served_BC[keep_B],
            champion_BC=rows.champion_BC[keep_B],
            told_BT=batch.label_BT if same else rows.told_BT[keep_B],
            early=self.within(rows.early),
        )

    def within(self, batch: Batch) -> Batch:
        """The rows that may be learned from."""
        keep_B = self._within(batch)
        return batch if bool(keep_B.all()) else batch.select(keep_B)

    def _within(self, batch: Batch) -> Tensor:
        """B bools, alike for all rows of a list."""
        if not len(batch) or not self._share.on:
            return torch.ones(len(batch), dtype=torch.bool)
        _, count_N = torch.unique_consecutive(batch.list_key_B, return_counts=True)
        user_N = batch.user_key_B[count_N.cumsum(0) - 1]
        kept = [
            self._share.admit(user, count)
            for user, count in zip(user_N.tolist(), count_N.tolist(), strict=True)
        ]
        self._left_out += sum(n for n, keep in zip(count_N.tolist(), kept, strict=True) if not keep)
        return torch.tensor(kept).repeat_interleave(count_N)

    def take(self) -> int:
        """Rows left out since the last call."""
        left_out, self._left_out = self._left_out, 0
        return left_out

    def erase(self, user_key: int) -> None:
        self._share.erase(user_key)

    def state(self) -> State:
        return self._share.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._share.restore(state)
