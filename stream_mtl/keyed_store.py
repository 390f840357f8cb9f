"""Rows of one task under keys that come from the rows themselves: the M largest keys stay.

Every unit (a row, or a whole list) has a key computed from its identity (and time); the largest stay, whatever the
order they come in. With random keys that is a uniform sample of all rows ever offered (bottom-k sampling; Cohen and
Kaplan 2007), with keys that grow with time the newest rows. Adding is idempotent, two stores merge exactly, shrinking
keeps a prefix. Invariant: held = the largest keys above `threshold`, the largest key ever turned away. The threshold
never falls: after an erasure, older rows at or below it are gone for good, and admitting only new ones would
favour them.

Of one user at most `most` units are held, those with the largest keys: a bottom-k within the user, then among all. What
is offered then is what every user offers up to that, so for who offers less the sample is as uniform as without, and
still the same in every order. Only a merge of two memories in which a user had reached the limit holds a few units
less than it could, until others come.

Legend: U unit slots, L rows a unit, R = U * L row slots, N units offered or taken, B rows of a batch, S stored logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Generator, Tensor

from stream_mtl.batch import Batch, concat, empty
from stream_mtl.errors import StateError
from stream_mtl.hashing import hash64
from stream_mtl.held import Held, Sample
from stream_mtl.memory_units import Ints, Keys, Units, group, random_keys, wanted_units
from stream_mtl.state import State

LIST_ROWS = 20  # a click, its 15 candidate and 4 uniform negatives: longer lists are thinned
NOBODY = 0  # user key of rows that are of no user: no share is taken of them
_CLAMP = 10.0  # logits beyond this say no more than "certain"; keeps the DER++ term finite
_NOT_STORED = ("label_BT", "mask_BT")


def columns(held: Held, rows: int) -> dict[str, Tensor]:
    """Zeroed storage of so many rows."""
    blank = empty(held.spec, rows)
    contents = {f.name: getattr(blank, f.name) for f in fields(Batch) if f.name not in _NOT_STORED}
    contents["label_B"] = torch.zeros(rows)
    contents["logit_BS"] = torch.zeros(rows, len(held.columns))
    contents["version_B"] = torch.zeros(rows, dtype=torch.int64)
    return contents


def row_bytes(held: Held) -> int:
    """What one remembered row takes, its key and count included."""
    return 16 + sum(tensor.nbytes for tensor in columns(held, 1).values())


def _neighbours(columns: Sequence[int]) -> slice | list[int]:
    """A slice where they follow each other: a view costs a fifth of a selection."""
    first = columns[0]
    if list(columns) == list(range(first, first + len(columns))):
        return slice(first, first + len(columns))
    return list(columns)


def unit_rows(held: Held) -> int:
    """Rows that a unit has room for."""
    return LIST_ROWS if held.whole_lists else 1


def take_from(
    stores: Sequence[KeyedStore], pick_N: Ints, first: int, log_chance_K: Tensor | None = None
) -> Sample:
    """Units by their places in several stores, one after the other."""
    parts, start = [], 0
    for store in stores:
        stop = start + store.units()
        of_store = pick_N[(pick_N >= start) & (pick_N < stop)] - start
        parts.append(store.take(of_store, first))
        first, start = first + len(of_store), stop
    return Sample(
        concat([part.batch for part in parts]),
        torch.cat([part.logit_RS for part in parts]),
        torch.cat([part.version_R for part in parts]),
        log_chance_K,
    )


class KeyedStore:
    """Row contents lie in preallocated tensors on the training device, keys in host memory."""

    def __init__(self, held: Held, rows: int, keys: Keys = random_keys) -> None:
        self._held, self._keys = held, keys
        self._unit_rows = unit_rows(held)
        self._columns = _neighbours(held.columns)
        self._salt = hash64(f"memory/{held.seed}/{held.task}")
        units = max(1, rows // self._unit_rows)
        self._key_U: Ints = np.full(units, -1, dtype=np.int64)
        self._count_U: Ints = np.zeros(units, dtype=np.int64)
        self._user_U: Ints = np.zeros(units, dtype=np.int64)  # as in the rows, but on the host
        self._most = max(1, int(held.user_share * units))  # units of one user
        self._threshold = -1
        self._index()
        contents = columns(held, units * self._unit_rows)
        self._rows = {name: tensor.to(held.device) for name, tensor in contents.items()}

    def __len__(self) -> int:
        if self._unit_rows == 1:
            return len(self._slot_sorted)
        return int(self._count_U[self._slot_sorted].sum())

    def units(self) -> int:
        return len(self._slot_sorted)

    def counts(self) -> Ints:
        return self._count_U[self._slot_sorted]

    def column(self, name: str) -> Tensor:
        slot_R = self._row_slots(self._slot_sorted, self.counts())
        return self._rows[name].index_select(0, self._to_device(slot_R))

    def classes(self) -> Ints:
        count_N = self.counts()
        class_R = self._held.classes(self.column("label_B"))
        if self._unit_rows == 1 or not len(count_N):
            return class_R
        return np.maximum.reduceat(class_R, np.cumsum(count_N) - count_N)

    def log_chance(self) -> Tensor | None:
        """None: no class is likelier to be held than another."""
        return None

    @property
    def chance(self) -> float:
        """That a row offered is held, where keys are random: those above the threshold are."""
        return 1.0 - (self._threshold + 1) / 2.0**63

    def grouped(self, batch: Batch) -> Units:
        """The batch's units whose own label is known."""
        known_B = batch.mask_BT[:, self._held.own].cpu().numpy()
        return group(
            batch, np.flatnonzero(known_B), self._unit_rows, self._held.own, self._salt, self._keys
        )

    def add(self, batch: Batch, logit_BC: Tensor, version: int) -> int:
        return self.put(self.grouped(batch), batch, logit_BC, version)

    def put(self, units: Units, batch: Batch, logit_BC: Tensor, version: int) -> int:
        """Offers these units of the batch; returns how many rows were stored or overwritten."""
        own = self._held.own
        if not len(units.key_N):
            return 0
        start_N = np.cumsum(units.count_N) - units.count_N
        user_N = batch.user_key_B.cpu().numpy()[units.row_R[start_N]]
        slot_N = self._place(units.key_N, user_N)
        units, slot_N = units.only(slot_N >= 0), slot_N[slot_N >= 0]
        if not len(slot_N):
            return 0
        self._count_U[slot_N] = units.count_N
        if len(units.row_R) < len(batch):  # rows are in their order: as many are all of them
            source = self._to_device(units.row_R)
            batch, logit_BC = batch.select(source), logit_BC.index_select(0, source)
        target = self._to_device(self._row_slots(slot_N, units.count_N))
        for name, tensor in self._rows.items():
            if hasattr(batch, name):
                tensor.index_copy_(0, target, getattr(batch, name))
        if units.offset_R is not None:
            self._rows["offset_B"][target] += torch.from_numpy(units.offset_R).to(target.device)
        self._rows["label_B"].index_copy_(0, target, batch.label_BT[:, own])
        self._rows["version_B"].index_fill_(0, target, version)
        logit_BS = logit_BC[:, self._columns]
        self._rows["logit_BS"].index_copy_(0, target, logit_BS.clamp(-_CLAMP, _CLAMP))
        return len(units.row_R)

    def sample(self, rows: int, generator: Generator) -> Sample | None:
        """Uniform over units, with replacement; lists are drawn whole, about `rows` rows in all."""
        pick_N = self.draw(rows, generator)
        return self.take(pick_N) if len(pick_N) else None

    def draw(self, rows: int, generator: Generator) -> Ints:
        """Places of units for about `rows` rows."""
        draws = wanted_units(self, rows)
        high = max(1, self.units())
        pick_N: Ints = torch.randint(high, (draws,), generator=generator).numpy()
        return pick_N

    def keys(self) -> Ints:
        """Of the units held, ascending."""
        return self._key_sorted

    def take(self, pick_N: Ints, first: int = 0) -> Sample:
        slot_N = self._slot_sorted[pick_N]  # in the order of keys: slots may differ after a merge
        count_N = self._count_U[slot_N]
        index_R = self._to_device(self._row_slots(slot_N, count_N))
        taken = {name: tensor.index_select(0, index_R) for name, tensor in self._rows.items()}
        if self._unit_rows > 1:  # the same list drawn twice in a row must stay two lists
            draw_R = np.repeat(np.arange(first, first + len(pick_N)), count_N)
            taken["list_key_B"] = taken["list_key_B"] + self._to_device(draw_R)
        return self._as_sample(taken)

    def _as_sample(self, taken: dict[str, Tensor]) -> Sample:
        label_R, logit_RS, version_R = (
            taken.pop(name) for name in ("label_B", "logit_BS", "version_B")
        )
        own, tasks = self._held.own, len(self._held.spec.tasks)
        label_RT = label_R.new_zeros(len(label_R), tasks)
        label_RT[:, own] = label_R
        mask_RT = torch.zeros_like(label_RT, dtype=torch.bool)
        mask_RT[:, own] = True
        return Sample(Batch(label_BT=label_RT, mask_BT=mask_RT, **taken), logit_RS, version_R)

    def repair(self, batch: Batch) -> int:
        own = self._held.own
        row_B = np.flatnonzero(batch.mask_BT[:, own].cpu().numpy())
        key_B = self._keys(batch, row_B, self._unit_rows > 1, self._salt)
        at_B, found_B = self._find(key_B)
        row_B, slot_B = row_B[found_B], self._slot_sorted[at_B[found_B]]
        if not len(row_B):
            return 0
        row = self._to_device(row_B)
        slot_BL = self._to_device(slot_B[:, None] * self._unit_rows + np.arange(self._unit_rows))
        same_BL = self._rows["row_key_B"][slot_BL] == batch.row_key_B[row].unsqueeze(1)
        live_BL = np.arange(self._unit_rows) < self._count_U[slot_B][:, None]
        same_BL &= torch.from_numpy(live_BL).to(same_BL.device)
        target = slot_BL[same_BL]
        self._rows["label_B"][target] = (
            batch.label_BT[row, own].unsqueeze(1).expand_as(same_BL)[same_BL]
        )
        return len(target)

    def erase(self, user_key: int) -> int:
        """Also zeroes what evicted lists left behind the rows of a shorter one."""
        match_R = self._rows["user_key_B"] == user_key
        match_UL = match_R.cpu().numpy().reshape(-1, self._unit_rows)
        live_UL = np.arange(self._unit_rows) < self._count_U[:, None]
        slot_N = np.flatnonzero((match_UL & live_UL & (self._key_U >= 0)[:, None]).any(1))
        erased = int(self._count_U[slot_N].sum())
        self._key_U[slot_N], self._count_U[slot_N], self._user_U[slot_N] = -1, 0, 0
        self._index()
        for tensor in self._rows.values():
            tensor[match_R] = 0
        return erased

    def drop(self, key_N: Ints) -> None:
        """Lets go of units that are held elsewhere now; the threshold stays."""
        at_N, found_N = self._find(key_N)
        slot_N = self._slot_sorted[at_N[found_N]]
        if len(slot_N):
            self._key_U[slot_N], self._count_U[slot_N] = -1, 0
            self._index()

    def split(self, away_N: npt.NDArray[np.bool_]) -> KeyedStore:
        """Moves the marked units, keys and all, into a store of their own."""
        moved = KeyedStore(self._held, int(away_N.sum()) * self._unit_rows, self._keys)
        source_N = self._slot_sorted[away_N]
        slot_N = np.arange(len(source_N))
        moved._key_U[slot_N] = self._key_U[source_N]
        moved._copy_rows(self, source_N, slot_N)
        moved._index()
        self._key_U[source_N], self._count_U[source_N] = -1, 0
        self._index()
        return moved

    def merge(self, other: KeyedStore) -> None:
        if other._unit_rows != self._unit_rows or other._salt != self._salt:
            raise StateError("only memories of one task and one seed can be merged")
        self._raise_threshold(other._threshold)
        source_N = other._slot_sorted
        slot_N = self._place(other._key_U[source_N], other._user_U[source_N])
        self._copy_rows(other, source_N[slot_N >= 0], slot_N[slot_N >= 0])

    def _copy_rows(self, other: KeyedStore, source_N: Ints, slot_N: Ints) -> None:
        count_N = other._count_U[source_N]
        self._count_U[slot_N] = count_N
        self._user_U[slot_N] = other._user_U[source_N]
        source = self._to_device(self._row_slots(source_N, count_N))
        target = self._to_device(self._row_slots(slot_N, count_N))
        for name, tensor in self._rows.items():
            tensor[target] = other._rows[name][source].to(tensor.device)

    def resized(self, rows: int) -> KeyedStore:
        new = KeyedStore(self._held, rows, self._keys)
        new.merge(self)
        return new

    def state(self) -> State:
        keys = {
            "key_U": torch.from_numpy(self._key_U),
            "count_U": torch.from_numpy(self._count_U),
            "threshold": self._threshold,
            "keys": self._keys.__name__,  # those of one policy mean nothing to another
        }
        return {**self._rows, **keys}

    def restore(self, state: Mapping[str, Any]) -> None:
        own = self.state()
        bad = [
            name
            for name, value in own.items()
            if getattr(state.get(name), "shape", None) != getattr(value, "shape", None)
        ]
        threshold = state.get("threshold")
        named = state.keys() == own.keys() and state["keys"] == own["keys"]
        if bad or not named or not isinstance(threshold, int):
            raise StateError(
                f"saved memory of task {self._held.task!r} does not fit (differs in:"
                f" {', '.join(bad) or 'names'}); use the configuration it was saved with, or start this"
                " memory afresh"
            )
        for name, tensor in self._rows.items():
            tensor.copy_(state[name])
        self._key_U[:] = state["key_U"].cpu().numpy()
        self._count_U[:] = state["count_U"].cpu().numpy()
        self._user_U[:] = state["user_key_B"].cpu().numpy()[:: self._unit_rows]
        self._threshold = threshold
        self._index()

    # --- keys and slots -------------------------------------------------------------------------

    def _index(self) -> None:
        """Held keys in ascending order, and the slot of each."""
        used = np.flatnonzero(self._key_U >= 0)
        self._slot_sorted: Ints = used[np.argsort(self._key_U[used], kind="stable")]
        self._key_sorted: Ints = self._key_U[self._slot_sorted]

    def _find(self, key_N: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
        at_N = np.searchsorted(self._key_sorted, key_N)
        if not len(self._key_sorted):
            return at_N, np.zeros(len(key_N), dtype=bool)
        at_N = np.minimum(at_N, len(self._key_sorted) - 1)
        return at_N, self._key_sorted[at_N] == key_N

    def _place(self, key_N: Ints, user_N: Ints) -> Ints:
        """A slot for each of these distinct keys, or -1 where it is turned away."""
        slot_N = np.full(len(key_N), -1, dtype=np.int64)
        at_N, found_N = self._find(key_N)
        slot_N[found_N] = self._slot_sorted[at_N[found_N]]
        new = np.flatnonzero(~found_N & (key_N > self._threshold))
        if self._most < len(self._key_U):
            new = self._within_share(new, key_N, user_N, slot_N)
        new = new[np.argsort(key_N[new], kind="stable")]
        excess = len(self._key_sorted) + len(new) - len(self._key_U)
        if excess > 0:
            union = np.concatenate((self._key_sorted[:excess], key_N[new]))
            self._raise_threshold(int(np.partition(union, excess - 1)[excess - 1]))
            new = new[key_N[new] > self._threshold]
            slot_N[(key_N <= self._threshold)] = -1  # an overwrite that lost its slot just now
        if len(new):
            free = np.flatnonzero(self._key_U < 0)[: len(new)]
            slot_N[new] = free
            self._key_U[free], self._user_U[free] = key_N[new], user_N[new]
            before = np.searchsorted(self._key_sorted, key_N[new])
            self._key_sorted = np.insert(self._key_sorted, before, key_N[new])
            self._slot_sorted = np.insert(self._slot_sorted, before, free)
        return slot_N

    def _within_share(self, new: Ints, key_N: Ints, user_N: Ints, slot_N: Ints) -> Ints:
        """Those of the new keys that are among their user's largest; who they put out goes, in `slot_N` too."""
        users = np.unique(user_N[new])
        if not len(users):
            return new
        at_U = np.minimum(np.searchsorted(users, self._user_U), len(users) - 1)
        slot_H = np.flatnonzero((users[at_U] == self._user_U) & (self._key_U >= 0))
        user_A = np.concatenate((self._user_U[slot_H], user_N[new]))
        key_A = np.concatenate((self._key_U[slot_H], key_N[new]))
        order = np.lexsort((-key_A, user_A))
        of = user_A[order]
        rank = np.arange(len(of)) - np.searchsorted(of, of)
        over = order[(rank >= self._most) & (of != NOBODY)]
        if not len(over):
            return new
        gone = slot_H[over[over < len(slot_H)]]
        if len(gone):
            self._key_U[gone], self._count_U[gone] = -1, 0
            self._index()
            slot_N[np.isin(slot_N, gone)] = -1
        return np.delete(new, over[over >= len(slot_H)] - len(slot_H))

    def _raise_threshold(self, key: int) -> None:
        """Turns away everything at or below `key`, what is held included."""
        self._threshold = max(self._threshold, key)
        stop = int(np.searchsorted(self._key_sorted, self._threshold, side="right"))
        gone = self._slot_sorted[:stop]
        self._key_U[gone], self._count_U[gone] = -1, 0
        self._key_sorted, self._slot_sorted = self._key_sorted[stop:], self._slot_sorted[stop:]

    def _row_slots(self, slot_N: Ints, count_N: Ints) -> Ints:
        if self._unit_rows == 1:
            return slot_N
        start_N = np.cumsum(count_N) - count_N
        rank_R = np.arange(int(count_N.sum())) - np.repeat(start_N, count_N)
        return np.repeat(slot_N * self._unit_rows, count_N) + rank_R

    def _to_device(self, index: Ints) -> Tensor:
        return torch.from_numpy(index).to(self._held.device)
