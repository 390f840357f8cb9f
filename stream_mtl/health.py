"""Are the experts alive, and do the gates choose? (HoME, arXiv 2408.05430: experts collapse, or one task takes them all.)

Legend: B rows, E experts, H width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stream_mtl.batch import Batch
from stream_mtl.models.base import Model

NEAR_ZERO = (
    0.02  # of an activation: about 3 % of a healthy expert's are nearer (SiLU of a standard normal)
)


@torch.inference_mode()
def health(model: Model, embedding_BFH: Tensor, batch: Batch) -> dict[str, float]:
    """Three kinds of figures, all between 0 and 1; nothing for a model without experts or rows.

    zero_rate/<expert>      share of the expert's activations that are nearly zero; 1: it is dead
    gate_entropy/<gate>     entropy of the gate's mean over its greatest; 0: it always takes the same single expert
    gate_share/<gate>/<expert>  what the gate gives it on average
    """
    found: dict[str, float] = {}
    if not len(batch):
        return found
    for mixture in model.mixtures(embedding_BFH, batch):
        share_E = mixture.gate_BE.mean(0)
        found[f"gate_entropy/{mixture.gate}"] = _entropy(share_E)
        zero_E = (mixture.expert_BEH.abs() < NEAR_ZERO).float().mean((0, 2))
        for name, zero, share in zip(mixture.experts, zero_E, share_E, strict=True):
            found[f"zero_rate/{name}"] = float(zero)
            found[f"gate_share/{mixture.gate}/{name}"] = float(share)
    return found


def _entropy(share_E: Tensor) -> float:
    if len(share_E) < 2:
        return 1.0
    return float(-torch.special.xlogy(share_E, share_E).sum() / math.log(len(share_E)))
