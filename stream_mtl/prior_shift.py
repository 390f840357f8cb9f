"""Undoes what a sampler's preference for some classes would do to probabilities.

Where classes are drawn at other shares than they have, log-odds learned from the draw are off by the log of how much
likelier each class was to be drawn. Adding that to the logits in training, and not in serving, is exact for what
predicts one distribution a row (binary, multi-class; the same as for sampled negatives, see `features`), and every
row keeps its full say, which is why rare classes are worth drawing. A funnel's label is a product of probabilities, a
list's rows share one draw, and a value has no log-odds: there rows are weighted by the inverse chance, which is exact
for any loss, but gives back most of what balancing gained.

Legend: W logits of one head, K classes, R rows of a sample.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stream_mtl.batch import list_index
from stream_mtl.held import Held, Sample
from stream_mtl.tasks.base import TaskKind


def corrected(sample: Sample, kind: TaskKind, held: Held) -> tuple[Sample, Tensor | None]:
    """The sample with the weights, and the shift (W) of its logits in training, that undo its preference."""
    if sample.log_chance_K is None:
        return sample, None
    if kind.shifts:
        log_chance_K = sample.log_chance_K.to(sample.logit_RS.device)
        wide = kind.spread == "class_entropy"
        return sample, log_chance_K if wide else log_chance_K[1:] - log_chance_K[:1]
    weight_B = sample.batch.weight_B * inverse_chance(sample, held)
    return replace(sample, batch=replace(sample.batch, weight_B=weight_B)), None


def inverse_chance(sample: Sample, held: Held) -> Tensor:
    """Weights (R) of mean about 1 under which the sample stands for the stream, whatever the task's kind."""
    if sample.log_chance_K is None:
        return torch.ones_like(sample.batch.weight_B)
    class_R = torch.from_numpy(held.classes(sample.batch.label_BT[:, held.own]))
    class_R = class_R.to(sample.logit_RS.device)
    if held.whole_lists:  # a list was drawn as one, by its highest class
        list_R, lists = list_index(sample.batch.list_key_B)
        class_R = class_R.new_zeros(lists).scatter_reduce(0, list_R, class_R, "amax")[list_R]
    return (-sample.log_chance_K.to(class_R.device)[class_R]).exp()
