"""The two-objective problem of CAGrad, Nash-MTL and FAMO: which balancers reach the Pareto front from all five starts?

    python -m benchmarks.balancer_toy [--steps 50000] [--balancers sum famo ...] [--json]

Adam at rate 1e-3, the first objective scaled by .1; single losses (window 1, no decay), minus the published lower bounds, since FAMO needs
positive ones. A run reached the front when it ends within .1 of the line x2 = -8.3552, -7 <= x1 <= 7. `sum` is plain
Adam on the sum. Source: github.com/AvivNavon/nash-mtl, experiments/toy; lower bounds and starts as in github.com/Cranial-XIX/FAMO.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.report import Figure, parser, tell
from stream_mtl import config
from stream_mtl.balancers import BALANCERS
from stream_mtl.balancers.base import Balancer, GradientBalancer, Seen, Setup

STARTS = ((-8.5, 7.5), (0.0, 0.0), (9.0, 9.0), (-7.5, -0.5), (9.0, -1.0))
SCALE = 0.1
LOWER_2 = torch.tensor([-21 * SCALE, -21.0])
FRONT = -8.3552  # x2 of the front
ON_2, ROWS_2 = torch.ones(2, dtype=torch.bool), torch.ones(2, dtype=torch.int64)
_LEAST = 5e-6  # under the logarithm


def objectives(x_S2: Tensor) -> Tensor:
    """Both objectives (S x 2) at S points: a log-shaped valley above x2 = 0, two bowls below."""
    x1_S, x2_S = x_S2.unbind(1)
    tanh_S = torch.tanh(-x2_S)
    valley = [
        (0.5 * (-x1_S - 7) - tanh_S).abs().clamp(min=_LEAST).log() + 6,
        (0.5 * (-x1_S + 3) + tanh_S + 2).abs().clamp(min=_LEAST).log() + 6,
    ]
    bowl = [((-x1_S + at) ** 2 + 0.1 * (-x2_S - 8) ** 2) / 10 - 20 for at in (7, -7)]
    above_S, below_S = (_positive(torch.tanh(sign * x2_S * 0.5)) for sign in (1, -1))
    first_S, second_S = (v * above_S + b * below_S for v, b in zip(valley, bowl, strict=True))
    return torch.stack((SCALE * first_S, second_S), 1)


def _positive(y_S: Tensor) -> Tensor:
    """max(y, 0) with slope 1 at 0, as torch's clamp had when the problem was published: a start lies there."""
    return torch.where(y_S >= 0, y_S, 0.0)


def descend(
    name: str, steps: int, rate: float = 1e-3, starts: Sequence[tuple[float, float]] = STARTS
) -> Tensor:
    """Where the runs end (S x 2): side by side, each with a balancer of its own."""
    settings = config.Balancer(name=name, window=1, decay=0.0)
    made = [BALANCERS[name](Setup(torch.ones(2), settings, run)) for run in range(len(starts))]
    x_S2 = torch.tensor(starts).requires_grad_()
    adam = torch.optim.Adam([x_S2], lr=rate)
    value_S2 = objectives(x_S2)
    for step in range(steps):
        loss_S2 = (value_S2 - LOWER_2).detach()
        seen = [Seen(loss_2, ON_2, ROWS_2, step) for loss_2 in loss_S2]
        weight_S2, grams = _weights(made, seen, value_S2, x_S2)
        (x_S2.grad,) = torch.autograd.grad((value_S2 * weight_S2).sum(), x_S2)
        adam.step()
        value_S2 = objectives(x_S2)
        after_S2 = (value_S2 - LOWER_2).detach()
        for run, balancer in enumerate(made):
            if isinstance(balancer, GradientBalancer):
                balancer.learn_mix(seen[run], grams[run])
            else:
                balancer.learn(seen[run], partial(after_S2.__getitem__, run))
    return x_S2.detach()


def _weights(
    made: Sequence[Balancer | GradientBalancer],
    seen: Sequence[Seen],
    value_S2: Tensor,
    x_S2: Tensor,
) -> tuple[Tensor, Tensor]:
    """Weights S x 2, and the inner products S x 2 x 2 where a balancer asks for them."""
    loss_only = [
        b.weights(one)
        for b, one in zip(made, seen, strict=True)
        if not isinstance(b, GradientBalancer)
    ]
    if loss_only:
        return torch.stack(loss_only), torch.zeros(0)
    slopes = [torch.autograd.grad(value_S2[:, k].sum(), x_S2, retain_graph=True)[0] for k in (0, 1)]
    slope_S22 = torch.stack(slopes, 1)
    gram_S22 = slope_S22 @ slope_S22.mT
    mixers = [b for b in made if isinstance(b, GradientBalancer)]
    mixed = [b.mix(one, gram_22) for b, one, gram_22 in zip(mixers, seen, gram_S22, strict=True)]
    return torch.stack(mixed), gram_S22


def reached(x_S2: Tensor) -> list[bool]:
    return [abs(x2 - FRONT) < 0.1 and abs(x1) <= 7 for x1, x2 in x_S2.tolist()]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=50_000)
    options.add_argument("--balancers", nargs="+", default=["sum", "famo"], choices=list(BALANCERS))
    given = options.parse_args()
    torch.set_num_threads(1)
    asked = {"sum": ("4 (published)", 4), "famo": ("5 (published)", 5)}
    told = []
    for name in given.balancers:
        x_S2 = descend(name, given.steps)
        count = sum(reached(x_S2))
        target, least = asked.get(name, ("reported", None))
        holds = count == least if least is not None else None
        told.append(Figure(f"{name}: starts of 5 that reach the front", count, target, holds))
        ends = ", ".join(f"({a:.2f}, {b:.2f})" for a, b in x_S2.tolist())
        told.append(Figure(f"{name}: ends", ends, "", None))
    return tell(told, given.json)


if __name__ == "__main__":
    sys.exit(main())
