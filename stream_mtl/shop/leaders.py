"""The strongest items of each group (domain, category): exact, kept up to date by touched items only.

Forward decay keeps the order of untouched sums, so only an item that gained can enter a list. A cache:
never saved, rebuilt from the sums to the same lists.
"""

from __future__ import annotations

import numpy as np

from stream_mtl.shop.columns import Array, Ints

FEW = 4  # items that rise one by one rather than list by list


class Leaders:
    """Per group the `width` best slots with a positive score; ties go to the lower slot."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.slot: Array = np.full((16, width), -1, np.int32)

    def _reserve(self, groups: int) -> None:
        while groups > len(self.slot):
            self.slot = np.concatenate([self.slot, np.full_like(self.slot, -1)])

    def __len__(self) -> int:
        return len(self.slot)

    def of(self, group_G: Ints) -> Array:
        """int32 [G, width], -1 padded, best first."""
        self._reserve(int(group_G.max(initial=0)) + 1)
        return self.slot[group_G]

    def raised(self, group_N: Ints, slot_N: Ints, score: Array) -> None:
        """Distinct items whose score grew (or that came in); `score` is indexed by slot."""
        self._reserve(int(group_N.max(initial=0)) + 1)
        if len(slot_N) <= FEW:
            for group, slot in zip(group_N.tolist(), slot_N.tolist(), strict=True):
                self._rise(group, slot, score)
            return
        for group in np.unique(group_N).tolist():
            listed = self.slot[group]
            self.write(group, np.union1d(listed[listed >= 0], slot_N[group_N == group]), score)

    def _rise(self, group: int, slot: int, score: Array) -> None:
        """Move one item to its place."""
        row = self.slot[group]
        others = row[(row >= 0) & (row != slot)]
        strength, own = score[others], score[slot]
        if own <= 0:
            return
        place = int(np.count_nonzero((strength > own) | ((strength == own) & (others < slot))))
        if place < self.width:
            row[:place] = others[:place]
            row[place] = slot
            left = others[place : self.width - 1]
            row[place + 1 : place + 1 + len(left)] = left

    def rebuild(self, group: Array, score: Array) -> None:
        """All lists anew, from every slot's group (0: in none) and score."""
        self.slot[:] = -1
        slots = np.flatnonzero((group > 0) & (score > 0))
        self._reserve(int(group.max(initial=0)) + 1)
        order = slots[np.lexsort((-score[slots], group[slots]))]  # stable: ties keep slot order
        of = group[order]
        place = np.arange(len(order)) - np.searchsorted(of, of)
        kept = place < self.width
        self.slot[of[kept], place[kept]] = order[kept]

    def write(self, group: int, slots: Array, score: Array) -> None:
        """One list anew, of `slots`; `score` is indexed by slot."""
        strength = score[slots]
        order = np.lexsort((slots, -strength))[: self.width]
        best = slots[order[strength[order] > 0]]
        self.slot[group] = -1
        self.slot[group, : len(best)] = best
