"""What commands leave in the fold: whether reading is paused, which ids were carried out, what rollbacks discarded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from stream_mtl.erasure import Erasures
from stream_mtl.hashing import hash64
from stream_mtl.state import State

KEPT = (
    10_000  # newest command ids: a sender that repeats an older one is answered as if it were new
)


class Orders:
    """Part of the state. Ids are kept as hashes: whatever an operator wrote into one is not kept with them."""

    def __init__(self) -> None:
        self.paused = False
        self.discarded: list[
            list[int]
        ] = []  # of each rollback: cut gone back to, cut it was said in
        self.erasures = Erasures()
        self._cuts: dict[int, int] = {}  # hash of a command id -> cut, oldest first

    def repeated(self, command_id: str) -> int | None:
        """The cut in which a command of this id was carried out; None for a new one."""
        return self._cuts.get(hash64(command_id, "command"))

    def carried_out(self, command_id: str, cut: int) -> None:
        """Remember an id; the oldest goes when there are too many."""
        self._cuts[hash64(command_id, "command")] = cut
        while len(self._cuts) > KEPT:
            del self._cuts[next(iter(self._cuts))]

    def state(self) -> State:
        return {
            "paused": self.paused,
            "discarded": [list(one) for one in self.discarded],
            "erased": [list(one) for one in self.erasures.done],
            "command_ids": torch.tensor(list(self._cuts), dtype=torch.int64),
            "command_cuts": torch.tensor(list(self._cuts.values()), dtype=torch.int64),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.paused = bool(state["paused"])
        self.discarded = [[int(to), int(at)] for to, at in state["discarded"]]
        self.erasures.done = [[int(n) for n in one] for one in state["erased"]]
        ids, cuts = state["command_ids"].tolist(), state["command_cuts"].tolist()
        self._cuts = dict(zip(ids, cuts, strict=True))
