"""Learned vectors of users and items: candidates that nobody has been seen to visit together yet.

An item's vector is the unit sum of the embeddings of its id, category, brand and (as a mean) title words; so a new item
stands near its like from the start. A user's is the unit image, by one matrix, of the faded sum of the vectors of the
newest items: it needs no embedding of anybody, and moves with every click. Both learn from what was visited next,

    loss = -log softmax_j (cos(user, item_j) / temperature - log p_j)

over the items of the batch (Yi et al., RecSys 2019; `in_batch_softmax`), p_j by `ItemFrequency`. What is served is the
cosine alone. A step also draws visits again from the newest ones (`retrieval.again`). Updates are Adagrad's, one
accumulator a row of the table. A vector is made anew when its item is learned from, and all others in turns, so that
a search over the catalogue (`searches`) need not make them.
Legend: N visits of a batch, H items of a history, K distinct items, T tokens of an item, D width, R rows of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from stream_mtl.config import Retrieval as Settings
from stream_mtl.hashing import mix64
from stream_mtl.in_batch_softmax import gradients, unit
from stream_mtl.item_frequency import ItemFrequency
from stream_mtl.shop import Shop
from stream_mtl.shop.affinity import BUCKETS, TOKENS, WORDS
from stream_mtl.shop.columns import Array, Column, Columns, Ints
from stream_mtl.shop.shop import TOGETHER as HISTORY
from stream_mtl.state import State, nest, unnest

BACK = 0.8  # an item of the history counts this much less than the one after it
FIRST_ID = 0.1  # length of an id's first embedding beside its category's: before it learns, likeness decides
SWEEP = 1_024  # items whose vectors are made anew a step, beside those of the batch
_EPS = 1e-6


class Vectors(Columns):
    """As of the item's newest look: a row is good while its generation is the slot's."""

    vector: Array  # float32 [items, D], unit
    generation: Array

    def __init__(self, dim: int) -> None:
        super().__init__(
            {"vector": Column("float32", (dim,)), "generation": Column("int32", (), -1)}
        )


class Visits(Columns):
    """What was visited after what, and by whom; with generations, since slots change hands."""

    user: Ints  # hash
    item: Array  # int32 [visits, 1 + HISTORY] slots: what was visited, and before it, newest first, -1 padded
    generation: Array

    def __init__(self, rows: int) -> None:
        layout = {
            "user": Column("int64"),
            "item": Column("int32", (1 + HISTORY,), -1),
            "generation": Column("int32", (1 + HISTORY,)),
        }
        super().__init__(layout, rows)


class TwoTower:
    """`learn` once a cut; `users` and `items` give vectors whose products are cosines."""

    def __init__(self, shop: Shop, settings: Settings, seed: int) -> None:
        self._shop, self._settings, self._seed = shop, settings, seed
        generator = np.random.default_rng((seed, 0x70_77_65_72))
        dim, rows = settings.dim, settings.rows
        self._table_RD = generator.standard_normal((rows + BUCKETS, dim)).astype(np.float32)
        self._table_RD /= np.float32(np.sqrt(dim))
        self._table_RD[:rows] *= np.float32(FIRST_ID)
        self._square_R = np.zeros(rows + BUCKETS, np.float32)
        self._map_DD = np.eye(dim, dtype=np.float32)
        self._map_square_DD = np.zeros((dim, dim), np.float32)
        self._visits = Visits(settings.memory)
        self._seen = 0  # visits ever taken in: the newest stands at (seen - 1) % memory
        self._waiting = 0  # of those, not yet learned
        self.steps = 0
        self._vectors = Vectors(dim)
        self._frequency = ItemFrequency(settings.alpha, settings.rows)
        self.on_vectors: Callable[[Ints], None] | None = None  # told of slots with another vector
        shop.keep_visits = True

    # ---- served

    @property
    def ready(self) -> bool:
        return self.steps >= self._settings.first_steps

    def items(self) -> Array:
        """float32 [slots, D] of every slot in use; zeros where there was no item yet."""
        used = self._shop.items.used
        self._vectors.reserve(used)
        stale = np.flatnonzero(
            self._vectors.generation[:used] != self._shop.items.slots.generation[:used]
        )
        if len(stale):
            self._refresh(stale)
        return self._vectors.vector[:used]

    def users(self, history_UH: Array) -> Array:
        """float32 [U, D] of histories (slots, newest first, -1 padded); zeros for a stranger."""
        item_UH = history_UH[:, :HISTORY]
        weight_UH = BACK ** np.arange(item_UH.shape[1], dtype=np.float32) * (item_UH >= 0)
        if not self._shop.items.used:
            return np.zeros((len(item_UH), self._settings.dim), np.float32)
        vector_UHD = self.items()[item_UH]
        sum_UD = np.einsum("uh,uhd->ud", weight_UH.astype(np.float32), vector_UHD)
        return unit(sum_UD @ self._map_DD)[0]

    def _refresh(self, slot_K: Ints) -> None:
        self._vectors.vector[slot_K] = unit(self._sum(*self._rows(slot_K)))[0]
        self._vectors.generation[slot_K] = self._shop.items.slots.generation[slot_K]
        if self.on_vectors is not None:
            self.on_vectors(slot_K)

    # ---- learned

    def learn(self) -> int:
        """Take in the visits since the last call, and make a step of every full batch; how many steps."""
        before = self.steps
        for user, item, previous in self._shop.take_visits():
            place = self._seen % self._settings.memory
            row = [item, *previous, *[-1] * (HISTORY - len(previous))]
            self._visits.user[place] = user
            self._visits.item[place] = row
            self._visits.generation[place] = self._shop.items.slots.generation[row]
            self._seen += 1
            self._waiting += 1
            if self._waiting == self._settings.batch:
                self._step()
                self._waiting = 0
        return self.steps - before

    def erase(self, user_hash: int) -> None:
        """Visits of a user teach no more, and say no longer whose they were."""
        own = self._visits.user == user_hash
        self._visits.item[own], self._visits.user[own] = -1, 0

    def _step(self) -> None:
        s, shop = self._settings, self._shop
        self._vectors.reserve(shop.items.used)
        kept = min(self._seen, s.memory)
        fresh = np.arange(self._seen - s.batch, self._seen) % s.memory
        generator = np.random.default_rng((self._seed, self.steps))
        again = generator.integers(0, kept, s.again)
        item_NH, given_NH = (
            column[np.concatenate((fresh, again))]
            for column in (self._visits.item, self._visits.generation)
        )
        item_NH = np.where(
            (item_NH >= 0) & (shop.items.slots.generation[item_NH] == given_NH), item_NH, -1
        )
        good_N = (item_NH[:, 0] >= 0) & (item_NH[:, 1:] >= 0).any(1)
        key_N = shop.items.slots.hashed[item_NH[good_N, 0]]
        self._frequency.observe(key_N, len(shop.items.slots) / len(item_NH))
        if np.count_nonzero(good_N) > 1:
            self._descend(
                item_NH[good_N].astype(np.int64), np.log(self._frequency.probability(key_N))
            )
        self.steps += 1
        sweep = np.arange(self.steps * SWEEP, (self.steps + 1) * SWEEP) % shop.items.used
        self._refresh(np.unique(sweep))

    def _descend(self, item_NH: Ints, log_p_N: Array) -> None:
        slot_K = np.unique(item_NH[item_NH >= 0])
        place_NH = np.searchsorted(slot_K, np.maximum(item_NH, 0))
        near_NK = np.zeros((len(item_NH), len(slot_K)), np.float32)
        for back in range(HISTORY):
            known_N = np.flatnonzero(item_NH[:, 1 + back] >= 0)
            near_NK[known_N, place_NH[known_N, 1 + back]] += np.float32(BACK**back)
        row_KT, weight_KT = self._rows(slot_K)
        by_item_KD, by_map_DD = gradients(
            self._sum(row_KT, weight_KT),
            self._map_DD,
            near_NK,
            place_NH[:, 0],
            log_p_N,
            self._settings.temperature,
        )
        self._move(by_map_DD, by_item_KD, row_KT, weight_KT)
        self._refresh(slot_K)

    def _move(self, map_DD: Array, gradient_KD: Array, row_KT: Ints, weight_KT: Array) -> None:
        """Adagrad: the matrix by number, the table by row."""
        rate = np.float32(self._settings.rate)
        self._map_square_DD += map_DD * map_DD
        self._map_DD -= rate * map_DD / (np.sqrt(self._map_square_DD) + _EPS)
        place_K, token_K = np.nonzero(weight_KT)
        row_R, inverse = np.unique(row_KT[place_K, token_K], return_inverse=True)
        spread = gradient_KD[place_K] * weight_KT[place_K, token_K, None]
        sum_RD = torch.zeros(len(row_R), gradient_KD.shape[1])
        sum_RD.index_add_(0, torch.from_numpy(inverse), torch.from_numpy(spread))
        table = sum_RD.numpy()
        self._square_R[row_R] += (table * table).mean(1)
        root_R1 = np.sqrt(self._square_R[row_R])[:, None] + _EPS
        self._table_RD[row_R] -= rate * table / root_R1

    def _rows(self, slot_K: Ints) -> tuple[Ints, Array]:
        """Rows of the table that make up items, and how much each counts (0: nothing there) [K, T]."""
        token_KT = self._shop.items.columns.tokens.take(slot_K, 0).astype(np.int64)
        id_K = mix64(self._shop.items.slots.hashed.take(slot_K)) % self._settings.rows
        weight_KT = (token_KT > 0).astype(np.float32)
        weight_KT[:, :WORDS] /= np.maximum(weight_KT[:, :WORDS].sum(1, keepdims=True), 1)
        rows_KT = np.concatenate((id_K[:, None], token_KT + self._settings.rows), 1)
        return rows_KT, np.concatenate((np.ones((len(slot_K), 1), np.float32), weight_KT), 1)

    def _sum(self, row_KT: Ints, weight_KT: Array) -> Array:
        total_KD = self._table_RD[row_KT[:, 0]].copy()
        for token in range(1, 1 + TOKENS):
            some = np.flatnonzero(weight_KT[:, token])
            total_KD[some] += self._table_RD[row_KT[some, token]] * weight_KT[some, token, None]
        return total_KD

    # ---- state

    def state(self) -> State:
        used = min(self._vectors.capacity, self._shop.items.used)
        return {
            "steps": self.steps,
            "seen": self._seen,
            "waiting": self._waiting,
            **{name: torch.from_numpy(array) for name, array in self._arrays().items()},
            **nest("visits", self._visits.state(min(self._seen, self._settings.memory))),
            **nest("vectors", self._vectors.state(used)),
            **nest("frequency", self._frequency.state()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.steps, self._seen = int(state["steps"]), int(state["seen"])
        self._waiting = int(state["waiting"])
        for name, array in self._arrays().items():
            array[:] = state[name].numpy()
        self._visits.restore(unnest("visits", state))
        self._vectors.restore(unnest("vectors", state))
        self._frequency.restore(unnest("frequency", state))

    def _arrays(self) -> dict[str, Array]:
        return {
            "table_RD": self._table_RD,
            "square_R": self._square_R,
            "map_DD": self._map_DD,
            "map_square_DD": self._map_square_DD,
        }
