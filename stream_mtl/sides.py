"""The first layer of a model over lists: worked out once for a reader, once for an item, and added.

A linear layer's inputs are those of the reader r, of the item i, and of the pair p, so

    W x + b = (W_r r + b) + W_i i + W_p p

and only the last product is made for every row. It has a fifth of the columns, and texts are projected once a title
instead of once a row. Up to rounding the logits are those of the whole rows.

Legend: B rows, U readers, I items, X inputs, O outputs of a first layer, C logits of all heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from stream_mtl.batch import Batch
from stream_mtl.layers import InputLayer
from stream_mtl.lists import Lists


@runtime_checkable
class Sided(Protocol):
    """A model that begins with linear layers on its inputs, and can go on from what they give."""

    inputs: InputLayer

    def first(self) -> list[tuple[Tensor, Tensor]]:
        """Weight O x X and bias of each first layer."""
        ...

    def onward(self, first: Sequence[Tensor], batch: Batch) -> Tensor:
        """Logits B x C from what the first layers give, B x O each; reads no embedding and no text."""
        ...


def logits(model: Sided, table_RH: Tensor, lists: Lists, rows: int) -> Tensor:
    """B x C, in pieces of so many rows."""
    inputs = model.inputs
    reader_UX, item_IX, pair_BX = inputs.sides(table_RH, lists)
    layers = []
    for weight_OX, bias_O in model.first():
        of_reader, of_item, of_pair = (
            weight_OX.index_select(1, side.columns)
            for side in (inputs.reader, inputs.item, inputs.pair)
        )
        both = torch.cat((F.linear(reader_UX, of_reader, bias_O), F.linear(item_IX, of_item)))
        layers.append((both, of_pair.T))
    place_B2 = torch.stack((lists.reader_B, lists.item_B + len(reader_UX)), 1)
    pieces = []
    for start in range(0, len(lists), rows) or (0,):
        piece = slice(start, start + rows)
        first = [
            # one pass that gathers both and adds them
            F.embedding_bag(place_B2[piece], both, mode="sum").addmm_(pair_BX[piece], weight_XO)
            for both, weight_XO in layers
        ]
        pieces.append(model.onward(first, lists.pairs.rows(start, start + rows)))
    return torch.cat(pieces)
