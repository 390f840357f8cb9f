"""Exposures to rows of numbers, as of the moment of showing; outcomes to labelled batches.

A click that nothing had shown gets `negatives`. One on an item that the shop did not know yet gives no rows: no list
could have held it, and no drawn negative is like it, so a model would learn that the unknown is clicked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stream_mtl import batch as batches
from stream_mtl.batch import Batch, Spec
from stream_mtl.config import Config
from stream_mtl.description import DENSE, OF_ITEM, OF_READER, SPARSE, Description, Pairs
from stream_mtl.events import Exposure, Outcome
from stream_mtl.hashing import hash64, mix64
from stream_mtl.label_join import RATED
from stream_mtl.labels import Reading, readings
from stream_mtl.lists import Lists
from stream_mtl.negatives import Negatives
from stream_mtl.provisional import is_early, settled, told_at_last, told_early
from stream_mtl.retrieval import Candidates, Retrieval, Viewpoint
from stream_mtl.shop import Shop
from stream_mtl.shop.columns import Array, Ints
from stream_mtl.snapshots import Snapshots
from stream_mtl.state import State
from stream_mtl.task_columns import logits


@dataclass(frozen=True, slots=True)
class Rows:
    """Labelled rows of outcomes. `served_BC` belongs to `batch`; NaN where nothing was predicted."""

    batch: Batch
    served_BC: Tensor
    champion_BC: Tensor  # and what the last good model had said; no columns without a publish gate
    corrections: (
        Batch  # rows whose label changed since it was emitted, only the changed labels known
    )
    told_BT: (
        Tensor  # the labels of `batch` as they are learned: with codes, where a task has a delay
    )
    early: Batch  # rows that are told of provisionally (`provisional`): to learn from, never to judge by


class Features:
    """Keeps a snapshot of every open exposure; everything else is read from the shop."""

    def __init__(self, shop: Shop, retrieval: Retrieval, config: Config) -> None:
        self.shop, self.retrieval = shop, retrieval
        self.spec = Spec(
            SPARSE,
            DENSE,
            tuple(config.tasks),
            config.features.table_rows,
            shop.text_dim,
            reader_fields=OF_READER,
            item_fields=OF_ITEM,
        )
        self.readings = readings(config.tasks)
        self._rated = any(reading.source == "rating" for reading in self.readings)
        self._featureless = replace(self.spec, sparse_fields=(), dense_fields=(), text_dim=0)
        self.description = Description(shop, retrieval, config.features.table_rows)
        width = logits(config.tasks)
        self.snapshots = Snapshots(self.spec, width, width if config.gate.publish else 0)
        self._negatives = Negatives(shop, retrieval, config.features)
        self._retired: list[int] = []
        self._surface: dict[str, int] = {"": 0}
        # a corrected funnel must know of a row whether it got to the step, which was said before
        self._tell_known = any(task.correction != "none" for task in config.tasks.values())
        delays = [task.delay != "window" for task in config.tasks.values()]
        self._delayed = [n for n, delayed in enumerate(delays) if delayed]
        self._delayed_T = torch.tensor(delays) if self._delayed else None
        self._none = batches.empty(self.spec)
        self._opened = np.zeros(0, np.int64)  # rows since the last `served`, in order
        empty_BT = np.zeros((0, len(config.tasks)))
        self._nothing = (self._opened, empty_BT.astype(np.float32), empty_BT > 0, self._opened > 0)

    def retire(self, tasks: Sequence[str]) -> None:
        """Labels of these tasks are unknown from now on."""
        self._retired = [self.spec.tasks.index(name) for name in tasks]

    # ---- when something is shown

    def open(self, exposures: Sequence[Exposure]) -> Batch:
        """Rows of new exposures, from the shop as it is: call before their chunk's events count."""
        if not self._rated:
            exposures = [e for e in exposures if e.surface != RATED]
        if not exposures:
            return batches.empty(self.spec)
        shop = self.shop
        names = list(dict.fromkeys(e.user_id for e in exposures))
        row_of = {name: row for row, name in enumerate(names)}
        user_U = shop.user_slots(names)
        view = self.retrieval.view(user_U, domain_U=self._domains(exposures, names, user_U))
        slot_of = shop.items.slots.index
        sampled = [e for e in exposures if e.needs_negatives and e.items[0].item_id in slot_of]
        drawn = self._negatives.draw(sampled, view, row_of)
        items: list[int] = []
        positions: list[int] = []
        strange: dict[int, int] = {}  # row -> hash of an item that the shop does not know
        offsets: list[tuple[int, Array]] = []
        rows_E: list[int] = []
        for e in exposures:
            start = len(items)
            slots = [slot_of.get(shown.item_id, -1) for shown in e.items]
            if -1 in slots:
                ids = enumerate(shown.item_id for shown in e.items)
                strange |= {start + n: hash64(i) for n, i in ids if slots[n] < 0}
            items += slots
            if e.needs_negatives:
                positions += [0] * len(slots)
            else:
                positions += [shown.position or 0 for shown in e.items]
            if e.exposure_id in drawn:
                extra, offset = drawn[e.exposure_id]
                items += extra.tolist()
                positions += [0] * len(extra)
                offsets.append((start, offset))
            rows_E.append(len(items) - start)
        item_B = np.array(items, np.int64)
        item_hash_B = shop.items.slots.hashed.take(item_B)
        item_hash_B[list(strange)] = list(strange.values())
        offset_B = np.zeros(len(items), np.float32)
        for start, offset in offsets:
            offset_B[start : start + len(offset)] = offset
        expand = np.repeat(np.arange(len(exposures)), rows_E)
        row_E = np.array([row_of[e.user_id] for e in exposures])
        row_B = row_E[expand]
        time_E = np.array([e.time_ms for e in exposures], np.int64)
        surface_E = np.array([self._surface_hash(e.surface) for e in exposures], np.int64)
        pairs = Pairs(
            row_B=row_B,
            item_B=item_B,
            query_B=self._queries(exposures, view.query_U[row_E])[expand],
            time_B=time_E[expand],
            user_hash_B=np.array([hash64(name) for name in names], np.int64)[row_B],
            item_hash_B=item_hash_B,
            device_B=np.array([shop.devices.index.get(e.device, 0) for e in exposures])[expand],
            domain_B=shop.domain_codes([e.domain for e in exposures])[expand],
            surface_B=surface_E[expand],
        )
        list_key_E = np.array([hash64(e.exposure_id) for e in exposures], np.int64)
        user_key_U = np.array([hash64(name, "user") for name in names], np.int64)
        self._store(
            exposures,
            rows_E,
            view,
            pairs,
            offset_B,
            np.clip(positions, 0, self.spec.positions - 1),
            list_key_E[expand],
            user_key_U[row_B],
        )
        return self._emit(self._opened[-len(items) :], *self._unlabelled(len(items)))

    def served(self, output_BC: Tensor, champion_BC: Tensor | None = None) -> None:
        """What was predicted for all rows opened since the last call, one after the other."""
        if champion_BC is not None:
            self.snapshots.columns.champion[self._opened] = champion_BC.detach().cpu().numpy()
        self.snapshots.columns.served[self._opened] = output_BC.detach().cpu().numpy()
        self._opened = np.zeros(0, np.int64)

    # ---- when labels are known

    def rows(self, outcomes: Sequence[Outcome]) -> Rows:
        """Labelled rows; what an outcome closes is forgotten. Unknown exposures are passed over."""
        parts = [self._labelled(run) for run in _runs(outcomes, self.snapshots.rows)]
        row_B, label_BT, mask_BT, mends_B = (
            np.concatenate(column) for column in zip(self._nothing, *parts, strict=True)
        )
        some_B = mask_BT.any(1)
        fresh_B, mended_B, early_B = some_B & ~mends_B, some_B & mends_B, ~some_B
        if self._delayed:
            early_B = is_early(label_BT[:, self._delayed]).any(1)
            fresh_B &= ~early_B
        batch = self._emit(row_B[fresh_B], label_BT[fresh_B], mask_BT[fresh_B])
        rows = Rows(
            settled(batch, self._delayed_T),
            torch.from_numpy(self.snapshots.columns.served[row_B[fresh_B]]),
            torch.from_numpy(self.snapshots.columns.champion[row_B[fresh_B]]),
            self._emit(row_B[mended_B], label_BT[mended_B], mask_BT[mended_B]),
            batch.label_BT,
            self._emit(row_B[early_B], label_BT[early_B], mask_BT[early_B])
            if self._delayed
            else self._none,
        )
        self.snapshots.close_all([o.exposure_id for o in outcomes if o.closed])
        return rows

    def _labelled(self, outcomes: Sequence[Outcome]) -> tuple[Ints, Array, Array, Array]:
        """Rows of distinct exposures [B], labels and news [B, T], and whether they mend what was learned."""
        c = self.snapshots.columns
        slots = [self.snapshots.rows[o.exposure_id] for o in outcomes]
        rows_O = [len(row_R) for row_R in slots]
        row_B = np.concatenate(slots)
        label_BT = self._read(outcomes, rows_O)
        mends_B = np.repeat([o.correction for o in outcomes], rows_O)
        mask_BT = ~np.isnan(label_BT) & c.listable[row_B, None]
        if self._retired:
            mask_BT[:, self._retired] = False
        # a correction is news only where it says something else than before
        mask_BT &= ~mends_B[:, None] | ~c.known[row_B] | (c.label[row_B] != label_BT)
        old_BT = np.where(c.known[row_B], c.label[row_B], 0.0) if self._tell_known else 0.0
        label_BT = np.where(mask_BT, label_BT, old_BT).astype(np.float32)
        if self._delayed:
            label_BT = self._tell(outcomes, rows_O, row_B, label_BT, mask_BT)
            return row_B, label_BT, mask_BT, mends_B
        c.label[row_B] = np.where(mask_BT, label_BT, c.label[row_B])
        c.known[row_B] |= mask_BT
        return row_B, label_BT, mask_BT, mends_B

    def _tell(
        self,
        outcomes: Sequence[Outcome],
        rows_O: Sequence[int],
        row_B: Ints,
        label_BT: Array,
        mask_BT: Array,
    ) -> Array:
        """Labels with the codes of delayed tasks; takes out of the mask (in place) what is no news provisionally."""
        c = self.snapshots.columns
        early_B1 = np.repeat([o.provisional for o in outcomes], rows_O)[:, None]
        mends_B1 = np.repeat([o.correction for o in outcomes], rows_O)[:, None]
        delayed_1T = np.isin(np.arange(mask_BT.shape[1]), self._delayed)[None]
        early_BT, news_BT = told_early(label_BT, c.label[row_B])
        mask_BT &= ~early_B1 | (delayed_1T & news_BT & ~c.known[row_B])
        last_BT = told_at_last(label_BT, c.label[row_B])
        true_BT = ~early_B1 & mask_BT
        c.label[row_B] = np.where(true_BT, label_BT, np.where(mask_BT, early_BT, c.label[row_B]))
        c.known[row_B] |= true_BT
        code_BT = np.where(early_B1, early_BT, np.where(mends_B1, label_BT, last_BT))
        told_BT: Array = np.where(mask_BT & delayed_1T, code_BT, label_BT).astype(np.float32)
        return told_BT

    def _read(self, outcomes: Sequence[Outcome], rows_O: Sequence[int]) -> Array:
        """float32 [B, T], NaN where nothing is said."""
        columns = [
            self._profile(reading.attribute, outcomes, rows_O)
            if reading.attribute
            else reading.labels(_said(reading, outcomes, rows_O))
            for reading in self.readings
        ]
        return np.stack(columns, 1)

    def _profile(self, attribute: str, outcomes: Sequence[Outcome], rows_O: Sequence[int]) -> Array:
        """Class numbers of what the users said, on the first row of each exposure with a click label.

        One row an exposure: what is learned of a user must not depend on how long the lists are.
        """
        slot_O = self.shop.user_slots([o.user_id for o in outcomes])
        class_O = self.shop.profiles.classes(slot_O, attribute)
        fresh_O = [not o.correction and "click" in o.labels for o in outcomes]
        label_B = np.full(sum(rows_O), np.nan, np.float32)
        first_O = np.cumsum(rows_O) - rows_O
        known_O = (class_O >= 0) & fresh_O
        label_B[first_O[known_O]] = class_O[known_O]
        return label_B

    # ---- when lists are made

    def lists(self, kind: str, candidates: Candidates) -> Lists:
        """Rows to score, list after list, padding left out; `kind` is "user" or "query"."""
        shop, view = self.shop, candidates.view
        user_U = view.user_U
        row_B, place_B = np.nonzero(candidates.item_UC >= 0)
        item_B = candidates.item_UC[row_B, place_B].astype(np.int64)
        known_U = user_U >= 0
        hash_U = np.where(known_U, shop.users.slots.hashed[user_U], 0)
        device_U = np.where(known_U, shop.users.columns.device[user_U], 0)
        surface = self._surface_hash("home" if kind == "user" else "search")
        pairs = Pairs(
            row_B=row_B,
            item_B=item_B,
            query_B=view.query_U[row_B],
            time_B=np.full(len(row_B), shop.now_ms, np.int64),
            user_hash_B=hash_U[row_B],
            item_hash_B=shop.items.slots.hashed[item_B],
            device_B=device_U[row_B].astype(np.int64),
            domain_B=view.domain_U[row_B],
            surface_B=np.full(len(row_B), surface, np.int64),
        )
        cosine_BT = self.description.cosines(view, pairs)
        rows = replace(
            batches.empty(self._featureless, len(row_B)),
            dense_BD=torch.from_numpy(self.description.dense(view, pairs, cosine_BT)),
            prior_B=torch.from_numpy(candidates.prior_UC[row_B, place_B]),
            list_key_B=torch.from_numpy(row_B.astype(np.int64)),
            time_B=torch.from_numpy(pairs.time_B),
            domain_B=torch.from_numpy(pairs.domain_B),
        )
        _, first_U, of_reader_B = np.unique(row_B, return_index=True, return_inverse=True)
        _, first_I, of_item_B = np.unique(item_B, return_index=True, return_inverse=True)
        sides = (
            of_reader_B,
            of_item_B,
            first_U,
            first_I,
            self.description.sparse(pairs.take(first_U)),
            self.description.sparse(pairs.take(first_I)),
            self._queried(pairs.query_B[first_U]),
            self._titled(item_B[first_I]),
        )
        return Lists(rows, *(torch.from_numpy(side) for side in sides))

    def erase_user(self, user_id: str) -> int:
        """Forget a user's open exposures; how many there were."""
        self._opened = np.zeros(0, np.int64)
        return self.snapshots.erase_user(hash64(user_id, "user"))

    def state(self) -> State:
        """Taken between cuts, when everything that was opened has been served."""
        return self.snapshots.state() | self._negatives.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.snapshots.restore(state)
        self._negatives.restore(state)

    # ---- steps of the above

    def _store(
        self,
        exposures: Sequence[Exposure],
        rows_E: Sequence[int],
        view: Viewpoint,
        pairs: Pairs,
        offset_B: Array,
        position_B: Ints,
        list_key_B: Ints,
        user_key_B: Ints,
    ) -> None:
        for e in exposures:
            if e.exposure_id in self.snapshots.rows:
                self.snapshots.close(e.exposure_id)
        taken = [
            self.snapshots.take(e.exposure_id, n) for e, n in zip(exposures, rows_E, strict=True)
        ]
        row_B = np.concatenate(taken)
        self._opened = np.concatenate((self._opened, row_B))
        shop, c = self.shop, self.snapshots.columns
        c.sparse[row_B] = self.description.sparse(pairs)
        cosine_BT = self.description.cosines(view, pairs)
        c.dense[row_B] = self.description.dense(view, pairs, cosine_BT)
        c.position[row_B] = position_B
        sought_B = cosine_BT[:, 4] if shop.text_dim else None
        c.prior[row_B] = self.retrieval.prior(view, pairs.row_B, pairs.item_B, sought_B)
        c.offset[row_B] = offset_B
        c.item[row_B], c.query[row_B] = pairs.item_B, pairs.query_B
        c.item_generation[row_B] = shop.items.slots.generation[pairs.item_B]
        c.query_generation[row_B] = shop.queries.slots.generation[pairs.query_B]
        c.row_key[row_B] = mix64(list_key_B ^ pairs.item_hash_B)
        c.list_key[row_B], c.user_key[row_B] = list_key_B, user_key_B
        c.time[row_B], c.domain[row_B] = pairs.time_B, pairs.domain_B
        c.served[row_B] = np.nan
        c.champion[row_B] = np.nan
        c.listable[row_B] = np.repeat(
            [
                not e.needs_negatives or e.items[0].item_id in shop.items.slots.index
                for e in exposures
            ],
            rows_E,
        )

    def _emit(self, row_B: Ints, label_BT: Array, mask_BT: Array) -> Batch:
        c, shop = self.snapshots.columns, self.shop
        item_B, query_B = c.item[row_B], c.query[row_B]
        same_item_B = shop.items.slots.generation[item_B] == c.item_generation[row_B]
        same_query_B = shop.queries.slots.generation[query_B] == c.query_generation[row_B]
        text = (
            self._titled(np.where(same_item_B, item_B, -1)),
            self._queried(np.where(same_query_B, query_B, -1)),
        )
        return self.snapshots.batch(row_B, label_BT, mask_BT, text)

    def _titled(self, item_B: Array) -> Array:
        """float16 vectors [B, E] of titles, zeros where there is none."""
        return self._vectors(self.shop.items.columns.vector, item_B)

    def _queried(self, query_B: Array) -> Array:
        return self._vectors(self.shop.queries.columns.vector, query_B)

    def _vectors(self, vector_NE: Array, slot_B: Array) -> Array:
        if not self.shop.text_dim:
            return np.zeros((len(slot_B), 0), np.float16)
        return _rows_or_zero(vector_NE, slot_B)

    def _unlabelled(self, rows: int) -> tuple[Array, Array]:
        tasks = len(self.spec.tasks)
        return np.zeros((rows, tasks), np.float32), np.zeros((rows, tasks), bool)

    def _queries(self, exposures: Sequence[Exposure], current_E: Ints) -> Ints:
        """The exposure's query, else what its user has in mind."""
        query_E = current_E.copy()
        for e, exposure in enumerate(exposures):
            if exposure.query:
                query_E[e] = self.shop.queries.slots.index.get(exposure.query, -1)
        return query_E

    def _domains(self, exposures: Sequence[Exposure], names: Sequence[str], user_U: Ints) -> Ints:
        """Where each user was last, as scoring would have thought; for a stranger, where they are now."""
        first = {e.user_id: e.domain for e in reversed(exposures)}
        now_U = self.shop.domain_codes([first[name] for name in names])
        return np.where(user_U >= 0, self.shop.users.columns.domain[user_U], now_U).astype(np.int64)

    def _surface_hash(self, surface: str) -> int:
        if surface not in self._surface:
            if len(self._surface) > 64:  # surfaces are few; a cache must not grow with bad input
                return hash64(surface)
            self._surface[surface] = hash64(surface)
        return self._surface[surface]


def _runs(outcomes: Sequence[Outcome], known: Mapping[str, Ints]) -> Iterator[list[Outcome]]:
    """Outcomes of known exposures in their order, cut where an exposure comes a second time."""
    run: dict[str, Outcome] = {}
    for outcome in outcomes:
        if outcome.exposure_id in run:
            yield list(run.values())
            run = {}
        if outcome.exposure_id in known:
            run[outcome.exposure_id] = outcome
    if run:
        yield list(run.values())


def _rows_or_zero(vector_NE: Array, slot_B: Array) -> Array:
    """Rows [B, E] of slots, zeros for slot -1."""
    vector_BE = vector_NE.take(slot_B, 0)  # for rows twice as fast as indexing
    vector_BE[np.flatnonzero(slot_B < 0)] = 0
    return vector_BE


def _said(reading: Reading, outcomes: Sequence[Outcome], rows_O: Sequence[int]) -> Array:
    """float32 [B], NaN where nothing is said; of drawn negatives (rows beyond an outcome's items) as well."""
    column: list[float | None] = []
    for outcome, rows in zip(outcomes, rows_O, strict=True):
        values = outcome.labels.get(reading.source)
        if values is None:  # the most: each outcome says something of one task or two
            column += [np.nan] * rows
            continue
        column += values
        if missing := rows - len(values):
            said = reading.of_drawn and any(value is not None for value in values)
            column += [0.0 if said else np.nan] * missing
    return np.array(column, np.float32)
