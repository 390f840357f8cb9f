"""The strongest items of each group (domain, category): exact, kept up to date by touched items only.

Forward decay keeps the order of untouched sums, so only an item that gained can enter a list. A cache:
never saved, rebuilt from the sums to the same lists.
"""

from __future__ import annotations

import numpy as np

from stream_mtl.shop.columns import Array, Ints


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
        """Items whose score grew (or that came in); `score` is indexed by slot."""
        if not len(slot_N):
            return
        order = np.argsort(group_N, kind="stable")
        group_N, slot_N = group_N[order], slot_N[order]
        self._reserve(int(group_N[-1]) + 1)
        starts = np.flatnonzero(np.diff(group_N, prepend=-1)).tolist()
        for start, stop in zip(starts, [*starts[1:], len(group_N)], strict=True):
            group = int(group_N[start])
            listed = self.slot[group]
            listed = listed[listed >= 0]
            if stop - start == 1:
                new = slot_N[start : stop]
                both = np.concatenate([listed[listed != new[0]], new])
            else:
                both = np.union1d(listed, slot_N[start:stop])
            self.write(group, both, score)

    def rebuild(self, group: Array, score: Array) -> None:
        """All lists anew, from every slot's group (0: in none) and score."""
        self.slot[:] = -1
        slots = np.flatnonzero((group > 0) & (score > 0))
        self._reserve(int(group.max(initial=0)) + 1)
        order = slots[np.lexsort((slots, -score[slots], group[slots]))]
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
