"""Products of features below a model: cross layers, second-order terms, gates of domains.

Each starts as if it were not there, so that a young model says the base rate and no option costs it its first steps.
Legend: B rows, F sparse fields, H embedding width, X inputs, R rank, C logits of all heads, W of one head, G groups of
fields, N domains.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from stream_mtl.batch import Batch
from stream_mtl.linear import linear

DOMAINS = 64  # rows of the gates' own table; later domains share the last one, as in `trust`
_DOMAIN_WIDTH = 8
_UNIT = 10.0  # a scale is worth about one, but AdamW moves a number by no more than its rate a step


class CrossLayers(nn.Module):
    """x_{l+1} = x_0 * (U_l V_l x_l + b_l) + x_l (DCN-V2, Wang et al., WWW 2021, section 3.5).

    We start at U = b = 0, the identity, as low-rank adapters do: dense features reach 10, and two random cross layers
    would begin with numbers of 1,000.
    """

    def __init__(self, width: int, layers: int, rank: int, generator: Generator) -> None:
        """`rank` 0: a quarter of the width, the paper's choice."""
        super().__init__()
        rank = rank or max(1, width // 4)
        self.down = nn.ModuleList(linear(width, rank, generator, bias=False) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(rank, width) for _ in range(layers))
        for layer in self.up:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, first_BX: Tensor) -> Tensor:
        x_BX = first_BX
        for down, up in zip(self.down, self.up, strict=True):
            x_BX = torch.addcmul(x_BX, first_BX, up(down(x_BX)))
        return x_BX


class DomainGates(nn.Module):
    """x * 2 sigmoid(MLP([domain; sg(x)])): LHUC (Swietojanski & Renals, 2014) as in PEPNet's EPNet (Chang et al., KDD 2023).

    The last layer starts at zero, so every gate at 1. The domain has a row of its own here, not the embedding of
    the shared table: the gates need no other field and work with any set of them.
    """

    def __init__(self, width: int, hidden: int, generator: Generator) -> None:
        super().__init__()
        domain_NH = torch.randn(DOMAINS, _DOMAIN_WIDTH, generator=generator)
        self.domain = nn.Parameter(domain_NH)
        self.hidden = linear(_DOMAIN_WIDTH + width, hidden, generator)
        self.out = nn.Linear(hidden, width)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x_BX: Tensor, batch: Batch) -> Tensor:
        domain_BH = F.embedding(batch.domain_B.clamp(max=DOMAINS - 1), self.domain)
        hidden_BH = F.silu(self.hidden(torch.cat((domain_BH, x_BX.detach()), 1)))
        gated: Tensor = x_BX * (2 * torch.sigmoid(self.out(hidden_BH)))
        return gated


def pairs(embedding_BFH: Tensor) -> Tensor:
    """Sum over all pairs of fields of the products of their embeddings, B x H, in O(fields) (Rendle 2010, lemma 3.1)."""
    sum_BH, squares_BH = embedding_BFH.sum(1), embedding_BFH.square().sum(1)
    return (sum_BH.square() - squares_BH) / 2


class FactorTerms(nn.Module):
    """Adds to each logit of a head s * <r, pairs>: second-order FM, shared factors, a diagonal r a column.

    Multi-task FM: r starts at 1. We add the scale s, which starts at 0: a head that is new says the base rate.
    """

    def __init__(self, widths: Sequence[int], embedding_dim: int) -> None:
        """`widths`: logits of each head."""
        super().__init__()
        self.diagonal = nn.ParameterList(torch.ones(w, embedding_dim) for w in widths)
        self.scale = nn.ParameterList(torch.zeros(w) for w in widths)

    def forward(self, pairs_BGH: Tensor) -> Tensor:
        """B x C. One group of fields is read by all tasks, several by one task each."""
        groups = pairs_BGH.unbind(1)
        heads = zip(self.diagonal, self.scale, strict=True)
        return torch.cat(
            [
                _UNIT * scale_W * F.linear(groups[task % len(groups)], diagonal_WH)
                for task, (diagonal_WH, scale_W) in enumerate(heads)
            ],
            1,
        )

    def of_task(self, task: int) -> list[nn.Parameter]:
        return [self.diagonal[task], self.scale[task]]
