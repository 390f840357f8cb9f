"""What a step says of itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did. Losses are normalised: 1 is as good as knowing the base rate."""

    step: int  # steps done when it was over
    losses: dict[str, float]  # of the tasks that were active
    weights: dict[str, float]
    grad_norm: float
    nonfinite: bool  # skipped before anything moved
    rows: int
    rehearsed: int
    digest: str  # hex, 128 bit: touched rows after the step, and losses


NO_STEP = StepReport(0, {}, {}, 0.0, False, 0, 0, "")


def digest(*tensors: Tensor) -> str:
    """Of their bytes (hex, 128 bit)."""
    hashed = hashlib.sha256()  # in hardware, twice as fast as blake2b
    for tensor in tensors:
        hashed.update(tensor.detach().cpu().numpy().tobytes())
    return hashed.hexdigest()[:32]
