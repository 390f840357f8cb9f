"""Layers that models with experts are composed of.

Legend: B rows, X inputs, E experts, H width, S streams (gates), N gate columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from stream_mtl.linear import linear


class Experts(nn.Module):
    """Several experts on one input, as one product: linear, layer norm, SiLU.

    No ReLU and never batch norm (HoME: dead experts; rows of a stream are not drawn alike). The norm has no scale of its
    own: what reads the experts rescales.
    """

    def __init__(self, inputs: int, experts: int, hidden: int, generator: Generator) -> None:
        super().__init__()
        self.experts, self.hidden = experts, hidden
        self.linear = linear(inputs, experts * hidden, generator)

    def forward(self, input_BX: Tensor) -> Tensor:
        expert_BEH = self.linear(input_BX).view(-1, self.experts, self.hidden)
        return F.silu(F.layer_norm(expert_BEH, (self.hidden,)))


def gate_logits(gates: Iterable[nn.Module], input_BX: Tensor) -> tuple[Tensor, ...]:
    """B x N of every linear gate on one input, worked out as one product, since thin ones are slow."""
    parameters = [(gate.get_parameter("weight"), gate.get_parameter("bias")) for gate in gates]
    weight, bias = (torch.cat(parts) for parts in zip(*parameters, strict=True))
    logit_BN = F.linear(input_BX, weight, bias)
    return torch.split(logit_BN, [len(b) for _, b in parameters], 1)


def mix(share_BE: Tensor, pools: Sequence[Tensor]) -> Tensor:
    """Sum of the experts of all pools (each B x some x H), in the order of the shares' columns: B x H."""
    parts = torch.split(share_BE, [pool_BEH.shape[1] for pool_BEH in pools], 1)
    mixed_BH = torch.zeros(())
    for part_BE, pool_BEH in zip(parts, pools, strict=True):
        if pool_BEH.shape[1] == 1:
            part_BH = part_BE * pool_BEH.squeeze(1)
        else:
            part_BH = torch.bmm(part_BE.unsqueeze(1), pool_BEH).squeeze(1)
        mixed_BH = part_BH if mixed_BH.ndim == 0 else mixed_BH + part_BH
    return mixed_BH
