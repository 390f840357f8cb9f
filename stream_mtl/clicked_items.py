"""Negatives that are drawn as often as items are clicked, and what undoes that (logQ; Yi et al., RecSys 2019).

A ring holds the items of the newest clicks that nothing had shown; n draws from it, those of the user's own candidates left
out, have item j among them with chance w_j = 1 - (1 - q_j)^n, where q_j is j's share of the clicks outside the candidates.
The log-odds of a row of item j, positive or negative, are then those in the shop + ln(1/w_j), as for any sampling of negatives
(`features`). Shares come from `frequency`, not from the ring: an item that is clicked and not in it has a chance too.
Legend: R places of the ring, F drawn items, B items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from stream_mtl.frequency import Floats, Frequencies, Ints
from stream_mtl.hashing import mix64
from stream_mtl.state import State, nest, unnest

_RING = 2_048
_ATTEMPTS = 8  # draws a wanted item, before fewer are taken
_LEAST_OUTSIDE = 0.05  # share of clicks outside the candidates: estimates may add up to more than 1


class ClickedItems:
    """The ring and the shares; both are state."""

    def __init__(self) -> None:
        self._frequencies = Frequencies()
        self._item_R2 = np.zeros((_RING, 2), np.int64)  # slot and hash: a slot may get another item
        self._count = 0

    def observe(self, slot_B: Ints, hash_B: Ints) -> None:
        """Clicked items, in order; each is a step of its own."""
        for item_2 in zip(slot_B.tolist(), hash_B.tolist(), strict=True):
            self._item_R2[self._count % _RING] = item_2
            self._frequencies.observe(np.array(item_2[1:], np.int64))
            self._count += 1

    def draw(self, key: int, wanted: int, usable: Callable[[int, int], bool]) -> Ints:
        """Distinct slots of `wanted` draws that are `usable` (by slot and hash); fewer while there are few clicks."""
        held = min(self._count, _RING)
        if not held or wanted <= 0:
            return np.zeros(0, np.int64)
        place_D = mix64(np.arange(wanted * _ATTEMPTS, dtype=np.int64) + key, 2) % held
        good = [slot for slot, hashed in self._item_R2[place_D].tolist() if usable(slot, hashed)]
        return np.array(list(dict.fromkeys(good[:wanted])), np.int64)

    def offsets(self, hash_B: Ints, inside_B: Ints, draws: int) -> Floats:
        """ln(1/w) of items, by their hashes, where `inside_B` were left out and so many draws made."""
        inside = float(self._frequencies.probability(inside_B).sum())
        share_B = self._frequencies.probability(hash_B) / max(1 - inside, _LEAST_OUTSIDE)
        chance_B: Floats = -np.expm1(max(draws, 1) * np.log1p(-share_B.clip(max=1 - 1e-9)))
        offset_B: Floats = -np.log(chance_B)
        return offset_B

    def state(self) -> State:
        return {
            "item_R2": torch.from_numpy(self._item_R2),
            "count": self._count,
            **nest("frequencies", self._frequencies.state()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._item_R2[:] = state["item_R2"].numpy()
        self._count = int(state["count"])
        self._frequencies.restore(unnest("frequencies", state))
