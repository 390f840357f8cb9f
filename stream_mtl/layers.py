"""Parts that every model is composed of: inputs and heads, initialised from a given generator.

Legend: B rows, U readers, I items, F sparse fields, H width, D dense features, E text dimension, P projected text,
X inputs, W logits of one head.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from stream_mtl import config
from stream_mtl.batch import Batch, Spec
from stream_mtl.interactions import CrossLayers, DomainGates
from stream_mtl.linear import linear
from stream_mtl.lists import Lists
from stream_mtl.tasks.base import TaskKind

# A place is worth about one in log-odds, but AdamW moves a number by no more than its rate a step.
POSITION_UNIT = 10.0
# Helper logits are of rare rows (late positives): a start like the task's own would outweigh the positives of a funnel.
_HELPER_RATE = 0.01
_DENSE_LIMIT = 10.0  # features arrive roughly standardised; one wild price must not drown a row


class Dropout(nn.Module):
    """Zeroes a part of what it is given, and scales the rest up, while `generator` is set: in a step, never at serving."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.generator: Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.generator is None or not self.rate:
            return x
        # drawn on the CPU, so that every device drops the same
        keep = torch.rand(x.shape, generator=self.generator) >= self.rate
        return x * keep.to(x.device) / (1 - self.rate)


def droppers(model: object) -> list[Dropout]:
    """The layers of a model that drop anything."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return [m for m in modules if isinstance(m, Dropout) and m.rate]


@contextmanager
def dropping(layers: Sequence[Dropout], seed: int) -> Iterator[None]:
    """Inside, these layers drop, with random numbers that `seed` alone decides."""
    generator = Generator().manual_seed(seed)
    for layer in layers:
        layer.generator = generator
    try:
        yield
    finally:
        for layer in layers:
            layer.generator = None


class Side(nn.Module):
    """What belongs to the reader, to the item, or to their pair: places in the batch, and columns of the inputs."""

    fields: Tensor
    dense: Tensor
    columns: Tensor

    def __init__(
        self, spec: Spec, names: Collection[str], embedding_dim: int, text_X: Sequence[int]
    ) -> None:
        """In the order in which `InputLayer` lays them out."""
        super().__init__()
        fields = [f for f, name in enumerate(spec.sparse_fields) if name in names]
        dense = [d for d, name in enumerate(spec.dense_fields) if name in names]
        embedded_X = [f * embedding_dim + h for f in fields for h in range(embedding_dim)]
        first = len(spec.sparse_fields) * embedding_dim
        columns = [*embedded_X, *(first + d for d in dense), *text_X]
        for name, places in (("fields", fields), ("dense", dense), ("columns", columns)):
            places_N = torch.tensor(places, dtype=torch.int64)
            self.register_buffer(name, places_N, persistent=False)  # moves with the model

    def inputs(self, sparse_NF: Tensor, dense_ND: Tensor, table_RH: Tensor) -> list[Tensor]:
        """Its embeddings and dense features."""
        row_NS = sparse_NF.index_select(1, self.fields)
        return [F.embedding(row_NS, table_RH).flatten(1), dense_ND.index_select(1, self.dense)]


class InputLayer(nn.Module):
    """Embeddings, clamped dense features, projections of title and query and their product; then, where the
    settings say so, cross layers over them, and gates of the domain."""

    def __init__(self, spec: Spec, model: config.Model, generator: Generator) -> None:
        super().__init__()
        self.width = len(spec.sparse_fields) * model.embedding_dim + len(spec.dense_fields)
        self.has_text = spec.text_dim > 0
        text = model.text_dim * self.has_text
        title_X, query_X, product_X = (
            range(self.width + n * text, self.width + (n + 1) * text) for n in range(3)
        )
        of_one = {*spec.reader_fields, *spec.item_fields}
        of_both = {*spec.sparse_fields, *spec.dense_fields} - of_one
        self.reader = Side(spec, spec.reader_fields, model.embedding_dim, query_X)
        self.item = Side(spec, spec.item_fields, model.embedding_dim, title_X)
        self.pair = Side(spec, of_both, model.embedding_dim, product_X)
        if self.has_text:
            self.title = linear(spec.text_dim, model.text_dim, generator, bias=False)
            self.query = linear(spec.text_dim, model.text_dim, generator, bias=False)
            with torch.no_grad():
                # text vectors have length 1, so numbers of about 1/sqrt(E): brought to the size of the rest.
                # Both start alike, so that their product starts as parts of a cosine.
                self.title.weight *= math.sqrt(spec.text_dim)
                self.query.weight.copy_(self.title.weight)
            self.width += 3 * model.text_dim
        self.cross = self.gates = None
        if "dcn" in model.interactions:
            self.cross = CrossLayers(self.width, model.cross_layers, model.cross_rank, generator)
        if model.domain_gates:
            self.gates = DomainGates(self.width, model.tower, generator)

    @property
    def is_plain(self) -> bool:
        """Whether the inputs are those columns side by side, each sparse field of one side."""
        return self.cross is None and self.gates is None and not len(self.pair.fields)

    def sides(self, table_RH: Tensor, lists: Lists) -> tuple[Tensor, Tensor, Tensor]:
        """U x X, I x X and B x X: the columns of `reader`, `item` and `pair`."""
        dense_BD = lists.pairs.dense_BD.clamp(-_DENSE_LIMIT, _DENSE_LIMIT)
        dense_UD, dense_ID = (
            dense_BD.index_select(0, first) for first in (lists.first_U, lists.first_I)
        )
        reader = self.reader.inputs(lists.sparse_UF, dense_UD, table_RH)
        item = self.item.inputs(lists.sparse_IF, dense_ID, table_RH)
        pair = [dense_BD.index_select(1, self.pair.dense)]
        if self.has_text:
            query_UP = self.query(lists.query_UE.float())
            title_IP = self.title(lists.title_IE.float())
            reader.append(query_UP)
            item.append(title_IP)
            pair.append(query_UP[lists.reader_B] * title_IP[lists.item_B])
        return torch.cat(reader, 1), torch.cat(item, 1), torch.cat(pair, 1)

    def forward(self, embedding_BFH: Tensor, batch: Batch) -> Tensor:
        if not embedding_BFH.shape[
            1
        ]:  # no ids: else the gradient of all inputs would be made for nothing
            embedding_BFH = embedding_BFH.detach()
        parts = [embedding_BFH.flatten(1), batch.dense_BD.clamp(-_DENSE_LIMIT, _DENSE_LIMIT)]
        if self.has_text:
            # a zero vector (no title, no query) projects to zero: missing needs no mask
            title_BP, query_BP = (
                self.title(batch.title_BE.float()),
                self.query(batch.query_BE.float()),
            )
            parts += [title_BP, query_BP, title_BP * query_BP]
        x_BX = torch.cat(parts, 1)
        if self.gates is not None:
            x_BX = self.gates(x_BX, batch)
        return x_BX if self.cross is None else self.cross(x_BX)


class Head(nn.Module):
    """A task's tower (B x H to B x W), and for tasks with a prior the candidates' own order and a position bias.

    logit = scale * prior + bias[position] + tower(x). The tower's last layer starts at zero, and the scale
    too: the prior's unit is its own, and what it says of a probability is for the rows to tell (lists of a
    young model keep the candidates' order by `trust`). The bias never meets x (PAL; Guo et al., RecSys
    2019); at serving it is that of the first place. Helper logits have a tower of their own, aside: they learn of x
    without moving what gives it.
    """

    def __init__(
        self,
        inputs: int,
        tower: int,
        positions: int,
        kind: TaskKind,
        generator: Generator,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = Dropout(dropout)
        self.hidden = linear(inputs, tower, generator)
        helpers = kind.helpers
        self.out = nn.Linear(tower, kind.width - helpers)
        nn.init.zeros_(self.out.weight)
        nn.init.constant_(self.out.bias, math.log(kind.base_rate / (1 - kind.base_rate)))
        self.aside: nn.Sequential | None = None
        if helpers:
            last = nn.Linear(tower, helpers)
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, math.log(_HELPER_RATE / (1 - _HELPER_RATE)))
            self.aside = nn.Sequential(linear(inputs, tower, generator), nn.SiLU(), last)
        self.has_prior = kind.has_prior
        if self.has_prior:
            self.prior_scale = nn.Parameter(torch.zeros(1))
        self.place_bias = kind.has_prior and kind.place_bias
        if self.place_bias:
            self.position_bias = nn.Parameter(torch.zeros(positions))

    def forward(self, shared_BH: Tensor, batch: Batch) -> Tensor:
        hidden_BT = F.silu(self.hidden(self.dropout(shared_BH)))
        logit_BW: Tensor = self.out(self.dropout(hidden_BT))
        if self.has_prior:
            shown_B1 = self._shown(batch).unsqueeze(1)
            if logit_BW.shape[1] > 1:
                shown_B1 = F.pad(shown_B1, (0, logit_BW.shape[1] - 1))
            logit_BW = logit_BW + shown_B1
        if self.aside is None:
            return logit_BW
        # without gradient: what is learned late must not move what the task itself reads
        return torch.cat((logit_BW, self.aside(shared_BH.detach())), 1)

    def _shown(self, batch: Batch) -> Tensor:
        if not self.place_bias:
            prior_B: Tensor = self.prior_scale * batch.prior_B
            return prior_B
        place_B = batch.position_B.clamp(
            min=1
        )  # not known, or at serving: as if on the first place
        bias_B = F.embedding(place_B, self.position_bias.unsqueeze(1)).squeeze(1)
        shown_B: Tensor = self.prior_scale * batch.prior_B + POSITION_UNIT * bias_B
        return shown_B


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model is built from; `inputs` is a new layer that the model takes over."""

    spec: Spec
    settings: config.Model
    kinds: Sequence[TaskKind]
    generator: Generator

    def inputs(self) -> InputLayer:
        return InputLayer(self.spec, self.settings, self.generator)

    def heads(self, width: int) -> list[Head]:
        return [self.head(width, kind) for kind in self.kinds]

    def head(self, width: int, kind: TaskKind) -> Head:
        settings = self.settings
        return Head(
            width, settings.tower, self.spec.positions, kind, self.generator, settings.dropout
        )
