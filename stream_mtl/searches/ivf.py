"""Inverted file (faiss `IndexIVFFlat`): for catalogues in which one product with all items takes too long.

Items stand in lists, each with the centre that is nearest to them (spherical k-means on a sample, as many lists as the root of
the number of items); of a row only the lists whose centres are nearest are looked through. Vectors are kept whole, so what
is lost is an item whose list was not looked through, nothing else. A domain with few items on offer, and a catalogue
that is small, are searched exactly.

The state is the centres and every item's list; the rest follows from the vectors. In what order faiss holds the items
of a list, and how it rounds, must not show: cosines of what it finds are worked out again, and as many are asked of it that
none can be missing about the border. The lists are made anew when the catalogue has doubled, and when vectors have
moved `WORN` times each.

Legend: U rows that seek, G those of one domain, N items by slot, D width, L lists, K items, M items asked of the index.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import numpy as np
import torch

from stream_mtl.errors import ConfigError
from stream_mtl.nearest import nearest
from stream_mtl.searches.base import Found, Setup, Sought, of_pairs
from stream_mtl.shop.columns import Array, Ints
from stream_mtl.state import State

log = logging.getLogger(__name__)

SAMPLE = 64  # items a list that the centres are learned from
ROUNDS = 10  # of k-means
WORN = 16
MOVED, NONE = -1, -2  # instead of a list: it is not known which, and without a vector none
SPARE = 16  # asked beyond n, so that the border can be seen
BORDER = 1e-5  # cosines that differ by less may be told in another order by faiss, which rounds differently


class Inverted:
    def __init__(self, setup: Setup) -> None:
        try:
            faiss = import_module("faiss")  # its own type stubs are wrong
        except ImportError as error:
            raise ConfigError(
                "retrieval.search = 'ivf' needs faiss, which is not installed: pip install 'stream-mtl[index]',"
                " or set it to 'exact'"
            ) from error
        faiss.omp_set_num_threads(setup.threads)
        self._faiss: Any = faiss
        self._setup = setup
        self._centre_LD: Array = np.zeros((0, 0), np.float32)
        self._list_N = np.zeros(0, np.int32)
        self._trained = 0  # items that the centres were learned for
        self._moves = 0  # vectors that have moved since
        self._index: Any = None  # made when it is first needed

    def moved(self, slot_K: Ints) -> None:
        slot_K = slot_K[slot_K < len(self._list_N)]
        self._moves += int(np.count_nonzero(self._list_N[slot_K] >= 0))
        self._list_N[slot_K] = MOVED

    def find(self, sought: Sought) -> Found:
        pairs = [np.zeros((2, 0), np.int64)]
        for row_G, offered_N in _groups(sought):
            few = np.flatnonzero(offered_N)
            query_GD = sought.query_UD[row_G]
            if len(few) < self._setup.index_from:
                cosine_GK = query_GD @ sought.vector_ND[few].T
                row_K, place_K = nearest(cosine_GK, sought.n, sought.least)
                item_K = few[place_K]
            else:
                self._settle(sought.vector_ND)
                row_K, item_K = self._look(query_GD, offered_N, sought)
            pairs.append(np.stack((row_G[row_K], item_K)))
        row_K, item_K = np.concatenate(pairs, 1)
        order = np.lexsort((item_K, row_K))
        return Found(row_K[order], item_K[order], of_pairs(sought))

    # ---- the index

    def _look(self, query_GD: Array, offered_N: Array, sought: Sought) -> tuple[Ints, Ints]:
        """(row, item) of the n nearest in the lists that are looked through."""
        selector = self._faiss.IDSelectorBitmap(np.packbits(offered_N, bitorder="little"))
        probes = self._faiss.SearchParametersIVF(nprobe=self._setup.probes, sel=selector)
        waiting = np.flatnonzero(query_GD.any(1))
        if self._index is None:  # no item has a vector
            waiting = waiting[:0]
        asked, rows, items = sought.n + SPARE, [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        while len(waiting):
            rough_RM, item_RM = self._index.search(query_GD[waiting], asked, params=probes)
            unsure = []
            for row, rough_M, item_M in zip(waiting.tolist(), rough_RM, item_RM, strict=True):
                # n items are surely nearer than what was not told, or all of the lists was told
                if item_M[-1] >= 0 and rough_M[sought.n - 1] - rough_M[-1] < BORDER:
                    unsure.append(row)
                    continue
                item_K = np.sort(item_M[item_M >= 0])
                cosine_K = np.einsum("d,kd->k", query_GD[row], sought.vector_ND[item_K])
                best_K = np.argsort(-cosine_K, kind="stable")[: sought.n]
                items.append(item_K[best_K[cosine_K[best_K] > sought.least]])
                rows.append(np.full(len(items[-1]), row, np.int64))
            waiting, asked = np.array(unsure, np.int64), 2 * asked
        return np.concatenate(rows), np.concatenate(items)

    def _settle(self, vector_ND: Array) -> None:
        """Every item into the list that its vector belongs to as it is now; those without a vector into none."""
        new = len(vector_ND) - len(self._list_N)
        if new > 0:
            self._list_N = np.append(self._list_N, np.full(new, MOVED, np.int32))
        moved_K = np.flatnonzero(self._list_N == MOVED)
        if self._index is not None and len(moved_K):
            self._index.remove_ids(self._faiss.IDSelectorArray(moved_K))
        there_K = vector_ND[moved_K].any(1)
        self._list_N[moved_K[~there_K]] = NONE
        moved_K = moved_K[there_K]
        items = int(np.count_nonzero(self._list_N != NONE))
        if items >= max(1, 2 * self._trained) or self._moves >= WORN * items > 0:
            moved_K = np.flatnonzero(self._list_N != NONE)
            self._train(vector_ND[moved_K])
            self._index = self._empty()
        elif self._index is None and len(self._centre_LD):
            self._index = self._empty()
            self._put(np.flatnonzero(self._list_N >= 0), vector_ND)
        if len(moved_K):
            _, list_K1 = self._index.quantizer.search(vector_ND[moved_K], 1)
            self._list_N[moved_K] = list_K1[:, 0]
            self._put(moved_K, vector_ND)

    def _train(self, vector_KD: Array) -> None:
        items, dim = vector_KD.shape
        means = self._faiss.Kmeans(
            dim,
            max(1, int(items**0.5)),
            niter=ROUNDS,
            seed=self._setup.seed % 2**31,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=SAMPLE,
        )
        means.train(vector_KD)
        self._centre_LD, self._trained, self._moves = means.centroids, items, 0
        log.info("an index of %d lists over %d items", len(self._centre_LD), items)

    def _empty(self) -> Any:
        lists, dim = self._centre_LD.shape
        quantizer = self._faiss.IndexFlatIP(dim)
        quantizer.add(self._centre_LD)
        index = self._faiss.IndexIVFFlat(quantizer, dim, lists, self._faiss.METRIC_INNER_PRODUCT)
        index.set_direct_map_type(self._faiss.DirectMap.Hashtable)  # items can be taken out again
        return index

    def _put(self, slot_K: Ints, vector_ND: Array) -> None:
        vector_KD, list_K = vector_ND[slot_K], self._list_N[slot_K].astype(np.int64)
        pointers = map(self._faiss.swig_ptr, (vector_KD, slot_K, list_K))
        self._index.add_core(len(slot_K), *pointers, None)

    # ---- state

    def state(self) -> State:
        return {
            "centres": torch.from_numpy(self._centre_LD),
            "lists": torch.from_numpy(self._list_N),
            "trained": self._trained,
            "moves": self._moves,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._centre_LD = state["centres"].numpy().copy()
        self._list_N = state["lists"].numpy().copy()
        self._trained, self._moves = int(state["trained"]), int(state["moves"])
        self._index = None


def _groups(sought: Sought) -> Iterator[tuple[Ints, Array]]:
    """Rows that may find the same items, and those."""
    if sought.domain_U is None or sought.domain_N is None:
        yield np.arange(len(sought.query_UD)), sought.offered_N
        return
    for domain in np.unique(sought.domain_U).tolist():
        yield (
            np.flatnonzero(sought.domain_U == domain),
            sought.offered_N & (sought.domain_N == domain),
        )
