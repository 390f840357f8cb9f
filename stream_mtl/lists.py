"""Candidates to score, list after list: what a row repeats of its list, or of its item, is kept once.

Every row of a list has the same reader (a user, or a query), and over the lists of a cut an item comes many times.
So both are described once, and a model whose first layer is linear multiplies them once (`sides`).

Legend: B rows, U readers, I items, F sparse fields, D dense features, E text dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stream_mtl.batch import Batch, Spec


@dataclass(frozen=True, slots=True)
class Lists:
    """B (reader, item) pairs. Which columns are of which side the spec says; a sparse field is always of one."""

    pairs: Batch  # without sparse fields and texts
    reader_B: Tensor  # int64, index into U
    item_B: Tensor  # int64, index into I
    first_U: Tensor  # int64, a row of each reader
    first_I: Tensor  # int64, a row of each item
    sparse_UF: Tensor  # int64; the reader's fields count
    sparse_IF: Tensor  # int64; the item's fields count
    query_UE: Tensor  # float16
    title_IE: Tensor  # float16

    def __len__(self) -> int:
        return len(self.reader_B)

    def to(self, device: torch.device) -> Lists:
        tensors = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in self.__slots__
            if name != "pairs"
        }
        return Lists(pairs=self.pairs.to(device), **tensors)

    def whole(self, spec: Spec) -> Batch:
        """The same rows with everything repeated, for a model that reads them so."""
        is_item_F = torch.tensor([name in spec.item_fields for name in spec.sparse_fields])
        sparse_BF = torch.where(
            is_item_F.to(self.item_B.device),
            self.sparse_IF.index_select(0, self.item_B),
            self.sparse_UF.index_select(0, self.reader_B),
        )
        return replace(
            self.pairs,
            sparse_BF=sparse_BF,
            title_BE=self.title_IE.index_select(0, self.item_B),
            query_BE=self.query_UE.index_select(0, self.reader_B),
        )
