"""A linear layer whose weights come from a given generator."""

from __future__ import annotations

import math

import torch
from torch import Generator, nn


def linear(inputs: int, outputs: int, generator: Generator, bias: bool = True) -> nn.Linear:
    """A linear layer drawn from `generator` (torch's default law, without its global generator)."""
    layer = nn.Linear(inputs, outputs, bias=bias, device="meta")
    # not `to_empty`: on this torch it loads the symbolic algebra of the compiler, seconds of every start
    layer.weight = nn.Parameter(torch.empty(outputs, inputs))
    if bias:
        layer.bias = nn.Parameter(torch.empty(outputs))
    bound = 1 / math.sqrt(max(inputs, 1))
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        if bias:
            layer.bias.zero_()
    return layer
