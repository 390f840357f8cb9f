"""Another text encoder: the vectors of a saved state made anew, so that all that does not depend on them survives.

Catalogue and queries are encoded again from their texts. Remembered rows, held-out rows and rows that wait hold vectors and no
texts; they get those of the items and queries that their ids name today (of two items with one id the one of the row's category
and brand). Where that tells nobody, or several, they get none, like an item without a title. What projects vectors starts at zero: the network goes on as if no item had a title and
learns to read them. (From no text at all to some, a network has no such part and starts afresh; rows and all else stay.)

Features that compare texts keep, in rows from before, what the old encoder made of them.
Legend: N slots, R rows, E width of a vector.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stream_mtl.description import SPARSE, table_rows_of
from stream_mtl.hashing import hash64, mix64
from stream_mtl.shop.columns import Ints
from stream_mtl.state import State

log = logging.getLogger(__name__)

ENCODER = "pipeline/encoder"
ITEMS, QUERIES, TITLES_INDEX = "shop/items/", "shop/queries/", "searches/titles/"
VECTOR = "columns/vector"
CHUNK = 1_024  # texts encoded at once
READERS = ("title.weight", "query.weight")  # what reads vectors in a network, and its moments

Encode = Callable[[Sequence[str]], Tensor]


def is_another(saved: Mapping[str, Any], fresh: Mapping[str, Any]) -> bool:
    """Whether the vectors of the saved state are of another encoder than those of the present fold."""
    there, here = (state.get(ITEMS + VECTOR) for state in (saved, fresh))
    if not (isinstance(there, Tensor) and isinstance(here, Tensor)):
        return False
    named = saved.get(ENCODER, fresh.get(ENCODER)) != fresh.get(ENCODER)
    return named or there.shape[1:] != here.shape[1:]


def reencoded(
    saved: Mapping[str, Any], fresh: Mapping[str, Any], encode: Encode, table_rows: int
) -> State:
    """`saved` with the vectors that `encode` gives; `fresh`: the empty state of the present fold."""
    width = int(fresh[ITEMS + VECTOR].shape[1])
    titles = list(saved[f"{ITEMS}titles"])
    queries = list(saved[f"{QUERIES}slots/names"])  # of a free slot the name is empty
    log.info("another text encoder: %d titles, %d queries", len(titles), len(queries))
    title_NE, query_NE = (_vectors(texts, encode, width) for texts in (titles, queries))
    state = dict(saved)
    state[ENCODER] = fresh[ENCODER]
    state[ITEMS + VECTOR], state[QUERIES + VECTOR] = title_NE, query_NE
    there_N = torch.tensor([bool(title) and width > 0 for title in titles], dtype=torch.bool)
    state[f"{ITEMS}columns/titled"] = there_N
    readers = {
        "title_BE": _Reader(_item_ids(saved, table_rows), title_NE),
        "query_BE": _Reader(
            _ids("query", saved[f"{QUERIES}slots/row/hashed"], table_rows), query_NE
        ),
    }
    for name, value in saved.items():
        stem, _, column = name.rpartition("/")
        if column in readers:
            state[name] = readers[column].of(saved[f"{stem}/sparse_BF"])
        elif isinstance(value, Tensor) and any(reader in name for reader in READERS):
            model = fresh.get(name)
            state[name] = value if model is None else torch.zeros_like(model)
        elif name.startswith(TITLES_INDEX) and name in fresh:
            state[name] = fresh[name]
    return state


def _vectors(texts: Sequence[str], encode: Encode, width: int) -> Tensor:
    """float16 [N, E]; zeros where there is no text."""
    vector_NE = torch.zeros(len(texts), width, dtype=torch.float16)
    given = [slot for slot, text in enumerate(texts) if text] if width else []
    for start in range(0, len(given), CHUNK):
        part = given[start : start + CHUNK]
        vector_NE[part] = encode([texts[slot] for slot in part]).half()
    return vector_NE


def _ids(field: str, hash_N: Tensor, table_rows: int) -> dict[str, Ints]:
    """The ids that a row has in the field, by slot."""
    rows_NF = table_rows_of(hash_N.numpy(), field, table_rows)
    return {field: rows_NF[:, SPARSE.index(field)].astype(np.int64)}


def _item_ids(saved: Mapping[str, Any], table_rows: int) -> dict[str, Ints]:
    """Of item, category and brand: where two items share an id, the others tell them apart."""
    ids = _ids("item", saved[f"{ITEMS}slots/row/hashed"], table_rows)
    for field, names in (("category", "categories"), ("brand", "brands")):
        hashed = torch.tensor([0, *(hash64(name) for name in saved[f"{ITEMS}{names}"])])
        of_code = _ids(field, hashed, table_rows)[field]
        ids[field] = of_code[saved[f"{ITEMS}columns/{field}"].numpy()]
    return ids


class _Reader:
    """Vectors by the ids that rows have: all of them, else the first alone."""

    def __init__(self, ids: Mapping[str, Ints], vector_NE: Tensor) -> None:
        self._vector_NE = vector_NE
        there_N = np.flatnonzero(vector_NE.any(1).numpy())
        self._books = []  # fields, known keys, and the slot of each: -1 where several share it
        for fields in dict.fromkeys((tuple(ids), tuple(ids)[:1])):
            key_N = _key([ids[field] for field in fields])[there_N]
            key_K, first_K, count_K = np.unique(key_N, return_index=True, return_counts=True)
            places = [SPARSE.index(field) for field in fields]
            self._books.append((places, key_K, np.where(count_K == 1, there_N[first_K], -1)))

    def of(self, sparse_RF: Tensor) -> Tensor:
        """float16 [R, E]"""
        slot_R = np.full(len(sparse_RF), -1)
        for places, key_K, slot_K in self._books:
            if len(key_K):
                key_R = _key([sparse_RF[:, place].numpy() for place in places])
                place_R = np.minimum(np.searchsorted(key_K, key_R), len(key_K) - 1)
                found_R = np.where(key_K[place_R] == key_R, slot_K[place_R], -1)
                slot_R = np.where(slot_R < 0, found_R, slot_R)
        vector_RE = torch.zeros(len(sparse_RF), self._vector_NE.shape[1], dtype=torch.float16)
        known_R = torch.from_numpy(slot_R >= 0)
        vector_RE[known_R] = self._vector_NE[torch.from_numpy(slot_R)[known_R]]
        return vector_RE


def _key(ids: Sequence[Ints]) -> Ints:
    """One number for several ids."""
    key = ids[0].astype(np.int64)
    for more in ids[1:]:
        key = mix64(key) ^ more
    return key
