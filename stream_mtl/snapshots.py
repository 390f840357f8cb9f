"""Features of open exposures, kept from the moment of showing until the last word on their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from stream_mtl.batch import Batch, Spec
from stream_mtl.shop.columns import Array, Column, Columns, Ints
from stream_mtl.state import State, nest, unnest


class SnapshotColumns(Columns):
    """One row an exposed item; text vectors are looked up again by slot and generation."""

    sparse: Array
    dense: Array
    position: Array
    prior: Array
    offset: Array
    item: Array
    item_generation: Array
    query: Array
    query_generation: Array
    row_key: Ints
    list_key: Ints
    user_key: Ints
    time: Ints
    domain: Array
    label: Array  # newest labels that were emitted
    known: Array  # bool, which of them
    served: Array  # what was predicted when the exposure opened
    champion: Array  # and by the last good model, with `gate.publish`
    listable: Array  # bool, the shop knew the item: its labels mean something

    def __init__(self, spec: Spec, served: int, champion: int) -> None:
        tasks = (len(spec.tasks),)
        super().__init__(
            {
                "sparse": Column("int32", (len(spec.sparse_fields),)),
                "dense": Column("float32", (len(spec.dense_fields),)),
                "position": Column("int16"),
                "prior": Column("float32"),
                "offset": Column("float32"),
                "item": Column("int32", (), -1),
                "item_generation": Column("int32"),
                "query": Column("int32", (), -1),
                "query_generation": Column("int32"),
                "row_key": Column("int64"),
                "list_key": Column("int64"),
                "user_key": Column("int64"),
                "time": Column("int64"),
                "domain": Column("int32"),
                "label": Column("float32", tasks),
                "known": Column("bool", tasks),
                "served": Column("float32", (served,)),
                "champion": Column("float32", (champion,)),
                "listable": Column("bool"),
            }
        )


class Snapshots:
    """Rows by exposure id; freed rows are used again, last in, first out."""

    def __init__(self, spec: Spec, served: int, champion: int = 0) -> None:
        """`served`: numbers that are predicted of a row; `champion`: and by another model."""
        self.columns = SnapshotColumns(spec, served, champion)
        self.rows: dict[str, Ints] = {}  # exposure id -> its rows, in the order of its items
        self.used = 0
        self._free: list[int] = []

    def take(self, exposure_id: str, rows: int) -> Ints:
        """New rows for an exposure."""
        again = self._free[len(self._free) - min(rows, len(self._free)) :]
        del self._free[len(self._free) - len(again) :]
        fresh = range(self.used, self.used + rows - len(again))
        self.used += len(fresh)
        self.columns.reserve(self.used)
        row_R = np.array([*again, *fresh], np.int64)
        self.rows[exposure_id] = row_R
        return row_R

    def close(self, exposure_id: str) -> None:
        self.close_all([exposure_id])

    def close_all(self, exposure_ids: Sequence[str]) -> None:
        """Forget these exposures, in this order; unknown ones are passed over."""
        held = (self.rows.pop(exposure_id, None) for exposure_id in exposure_ids)
        rows = [row_R for row_R in held if row_R is not None]
        if rows:
            row_R = np.concatenate(rows)
            self.columns.reset(row_R)
            self._free += row_R.tolist()

    def erase_user(self, user_key: int) -> int:
        """Close every exposure of a user; how many there were."""
        theirs = [
            e for e, row_R in self.rows.items() if self.columns.user_key[row_R[0]] == user_key
        ]
        for exposure_id in theirs:
            self.close(exposure_id)
        return len(theirs)

    def batch(
        self, row_B: Ints, label_BT: Array, mask_BT: Array, text: tuple[Array, Array]
    ) -> Batch:
        """The snapshot as a batch with the given labels; copies, so rows may be closed after it."""
        c = self.columns
        tensors = {
            "sparse_BF": c.sparse.take(row_B, 0).astype(np.int64),
            "dense_BD": c.dense.take(row_B, 0),
            "title_BE": text[0],
            "query_BE": text[1],
            "position_B": c.position[row_B].astype(np.int64),
            "prior_B": c.prior[row_B],
            "offset_B": c.offset[row_B],
            "label_BT": label_BT,
            "mask_BT": mask_BT,
            "weight_B": np.ones(len(row_B), np.float32),
            "row_key_B": c.row_key[row_B],
            "list_key_B": c.list_key[row_B],
            "user_key_B": c.user_key[row_B],
            "time_B": c.time[row_B],
            "domain_B": c.domain[row_B].astype(np.int64),
        }
        return Batch(**{name: torch.from_numpy(array) for name, array in tensors.items()})

    def state(self) -> State:
        ids = list(self.rows)
        rows = np.concatenate([self.rows[i] for i in ids]) if ids else np.zeros(0, np.int64)
        return {
            "exposures": ids,
            "rows": torch.from_numpy(rows),
            "lengths": [len(self.rows[i]) for i in ids],
            "free": list(self._free),
            **nest("columns", self.columns.state(self.used)),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        rows, start = state["rows"].numpy().copy(), 0
        self.rows = {}
        for exposure_id, length in zip(state["exposures"], state["lengths"], strict=True):
            self.rows[exposure_id] = rows[start : start + length]
            start += length
        self._free = list(state["free"])
        self.columns.restore(unnest("columns", state))
        self.used = int(state["columns/item"].shape[0])
