"""The arithmetic of an update on digits and nothing else: what no program that does it with torch here can fall below.

Ready random rows, the net of `benchmarks.digits_avalanche.our_net`, plain SGD. No memory, draw, label, base rate, norm,
guard or digest. ER: forward, loss, backward and move over fresh and remembered rows. MIR besides: a virtual step on the
fresh rows, and the candidates forward before and after it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.digits import CLASSES, RATE, Dose
from benchmarks.digits_avalanche import CANDIDATES, our_net

_ROUNDS = 5  # the least of them: whatever disturbed the others is no arithmetic


def bare_ms(arm: str, dose: Dose, updates: int) -> float:
    """CPU milliseconds of an update of `arm`, ER or MIR."""
    torch.manual_seed(0)
    net = our_net(dose.net)
    fresh, remembered = _rows(dose.batch, dose), _rows(dose.batch, dose)
    candidates = _rows(max(CANDIDATES, 2 * dose.batch), dose)
    both = torch.cat([fresh[0], remembered[0]]), torch.cat([fresh[1], remembered[1]])
    each, rounds = max(1, updates // _ROUNDS), []
    for _ in range(_ROUNDS):
        start = time.process_time()
        for _ in range(each):
            if arm == "MIR":
                _interference(net, fresh, candidates).topk(dose.batch)
            _move(net, _gradients(net, both), RATE)
        rounds.append((time.process_time() - start) / each)
    return 1_000 * min(rounds)


def _rows(count: int, dose: Dose) -> tuple[Tensor, Tensor]:
    return torch.rand(count, dose.net.pixels), torch.randint(CLASSES, (count,))


def _gradients(net: nn.Module, rows: tuple[Tensor, Tensor]) -> Sequence[Tensor]:
    return torch.autograd.grad(F.cross_entropy(net(rows[0]), rows[1]), list(net.parameters()))


@torch.no_grad()
def _move(net: nn.Module, gradients: Sequence[Tensor], rate: float) -> None:
    torch._foreach_add_(list(net.parameters()), gradients, alpha=-rate)


def _interference(
    net: nn.Module, fresh: tuple[Tensor, Tensor], candidates: tuple[Tensor, Tensor]
) -> Tensor:
    """By how much every candidate's loss grows by a step on the fresh rows, which is taken back."""
    gradients = _gradients(net, fresh)
    before_N = _losses(net, candidates)
    _move(net, gradients, RATE)
    after_N = _losses(net, candidates)
    _move(net, gradients, -RATE)
    return after_N - before_N


@torch.no_grad()
def _losses(net: nn.Module, rows: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(net(rows[0]), rows[1], reduction="none")
