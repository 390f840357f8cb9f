"""The loss of one step: fresh rows and draws from every memory, through one forward.

Legend: B rows of the joint batch, T tasks, C logits of all heads, S stored logits, R rows of one draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from stream_mtl.batch import Batch, concat
from stream_mtl.held import Sample
from stream_mtl.rehearsal.base import Draw
from stream_mtl.tasks.base import Correction, TaskKind

_CLAMP = 10.0  # as in the memory: beyond it a logit says no more than "certain"

_LEAST_THETA = 0.1  # a click counts ten times at most: rarely seen places would be all noise


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """One draw of one task's memory."""

    task: int
    draw: Draw
    sample: Sample
    shift_W: Tensor | None = None  # to add to the task's own logits, for its label loss alone
    grown_R: Tensor | None = None  # what each row's remembered logits count, 0 to 1; None: 1


@dataclass(frozen=True, slots=True)
class JointRows:
    """Fresh rows first, then the draws in order; `share_BT` is each row's part in each task's mean."""

    batch: Batch
    share_BT: Tensor
    fresh: int
    rehearsed: Sequence[Rehearsed]


def join_rows(fresh: Batch, rehearsed: Sequence[Rehearsed]) -> JointRows:
    """A draw for logits alone has no known labels: a row must not teach twice.

    A remembered row counts as much as a fresh one (times the draw's weight): a task remembers few rows a step,
    and a mean of their own would let each of them shout down several fresh ones. So of a task without any fresh
    label all fresh rows count as if they had one: else, once its labels stop, a few rows are its whole loss,
    step after step, and the model learns its memory by heart.
    """
    batches, weights = [fresh], [_weights(fresh)]
    for one in rehearsed:
        batch = one.sample.batch
        if one.draw.label_weight == 0:
            batch = replace(batch, mask_BT=torch.zeros_like(batch.mask_BT))
        batches.append(batch)
        weights.append(one.draw.label_weight * _weights(batch))
    weight_BT = torch.cat(weights)
    silent_T = ~fresh.mask_BT.any(0)
    share_BT = weight_BT / (weight_BT.sum(0) + len(fresh) * silent_T).clamp(min=1.0)
    return JointRows(concat(batches), share_BT, len(fresh), rehearsed)


def of_task(batch: Batch, task: int | None) -> Batch:
    """The same rows with the labels of one task alone; None: of all."""
    if task is None:
        return batch
    own_T = torch.arange(batch.mask_BT.shape[1], device=batch.mask_BT.device) == task
    return replace(batch, mask_BT=batch.mask_BT & own_T)


def _weights(batch: Batch) -> Tensor:
    return batch.mask_BT * batch.weight_B.unsqueeze(1)


def reference_rows(rows: JointRows) -> JointRows | None:
    """The same rows, of which only those that a draw set aside as a reference have known labels; None without any."""
    if not any(one.draw.reference for one in rows.rehearsed):
        return None
    masks = [torch.zeros_like(rows.batch.mask_BT[: rows.fresh])]
    for one in rows.rehearsed:
        mask_BT = one.sample.batch.mask_BT
        masks.append(mask_BT if one.draw.reference else torch.zeros_like(mask_BT))
    batch = replace(rows.batch, mask_BT=torch.cat(masks))
    weight_BT = _weights(batch)
    return replace(rows, batch=batch, share_BT=weight_BT / weight_BT.sum(0).clamp(min=1.0))


def logit_shift(
    rows: JointRows, kinds: Sequence[TaskKind], fresh_C: Tensor | None
) -> Tensor | None:
    """What label losses add to the logits (B x C): `fresh_C` for fresh rows, each draw's own for its rows."""
    if fresh_C is None and all(one.shift_W is None for one in rows.rehearsed):
        return None
    width = sum(kind.width for kind in kinds)
    shift_BC = rows.batch.weight_B.new_zeros(len(rows.batch), width)
    if fresh_C is not None:
        shift_BC[: rows.fresh] = fresh_C
    start = rows.fresh
    for one in rows.rehearsed:
        stop = start + len(one.sample.batch)
        if one.shift_W is not None:
            own = kinds[one.task].columns[0]
            shift_BC[start:stop, own : own + len(one.shift_W)] = one.shift_W
        start = stop
    return shift_BC


def exposed(logit_BC: Tensor, batch: Batch, kinds: Sequence[TaskKind]) -> Tensor:
    """Logits as training sees them: the sampling offset shifts the first column of tasks that judge an exposure,
    not the later funnel steps."""
    if not any(kind.has_prior for kind in kinds):
        return logit_BC
    sampled_C = logit_BC.new_tensor(
        [float(k.has_prior and n == 0) for k in kinds for n in range(k.width)]
    )
    return logit_BC + batch.offset_B.unsqueeze(1) * sampled_C


def task_losses(
    rows: JointRows,
    logit_BC: Tensor,
    kinds: Sequence[TaskKind],
    spread_T: Tensor,
    shift_BC: Tensor | None = None,
    most: float = 0.0,
) -> Tensor:
    """Per task (T): label losses over the spread of its labels, plus the logit terms.

    `most`: what a row of a task with classes loses by its label at most, in nats; beyond it the gradient is 0. 0: no limit.
    """
    batch = rows.batch
    shifted_BC = exposed(logit_BC, batch, kinds)
    if shift_BC is not None:
        shifted_BC = shifted_BC + shift_BC
    losses = []
    for task, kind in enumerate(kinds):
        loss_B = kind.loss(
            shifted_BC,
            _counted(batch, task, kind),
            batch.mask_BT[:, task],
            batch.list_key_B,
            batch.offset_B != 0,
        )
        if most and kind.spread != "variance":
            loss_B = loss_B.clamp(max=most)
        if kind.correction is not None:
            loss_B = loss_B + _corrected(rows, shifted_BC, kind.tasks, kind.correction)
        losses.append((loss_B * rows.share_BT[:, task]).sum())
    loss_T = torch.stack(losses) / spread_T
    start = rows.fresh
    for one in rows.rehearsed:
        stop = start + len(one.sample.batch)
        if one.draw.logit_weight > 0:
            columns = list(kinds[one.task].columns)
            now_RS = logit_BC[start:stop][:, columns].clamp(-_CLAMP, _CLAMP)
            part = len(one.sample.batch) / max(
                rows.fresh, 1
            )  # as for labels: a row counts as a row
            distance_R = (now_RS - one.sample.logit_RS).square().mean(1)
            if one.grown_R is not None:
                distance_R = distance_R * one.grown_R
            distance = distance_R.mean() * part * one.draw.logit_weight
            loss_T = loss_T + distance * torch.eye(len(kinds), device=loss_T.device)[one.task]
        start = stop
    return loss_T


def _counted(batch: Batch, task: int, kind: TaskKind) -> Tensor:
    """Labels (B); where a kind has propensities, a positive at place k counts 1 / max(theta_k, 0.1) times.

    With P(click) = theta_k * relevance a cross-entropy against click / theta_k has its optimum at the relevance (Saito et al.,
    WSDM 2020, equation 9). A place that is not known (0) counts as looked at; beyond the last, as the last.
    """
    label_B = batch.label_BT[:, task]
    if not kind.propensities:
        return label_B
    times = [1.0, *(1 / max(theta, _LEAST_THETA) for theta in kind.propensities)]
    return label_B * label_B.new_tensor(times)[batch.position_B.clamp(max=len(times) - 1)]


def _corrected(
    rows: JointRows, logit_BC: Tensor, tasks: Sequence[int], correction: Correction
) -> Tensor:
    """Of fresh rows: whether a remembered one got to the step is not remembered."""
    task, before = tasks[:2]
    fresh = rows.batch.rows(0, rows.fresh)
    loss_B = logit_BC.new_zeros(len(logit_BC))
    loss_B[: rows.fresh] = correction(
        logit_BC[: rows.fresh],
        fresh.label_BT[:, task],
        fresh.mask_BT[:, task],
        fresh.label_BT[:, before],
    )
    return loss_B


def active_tasks(rows: JointRows) -> Tensor:
    """T bools: tasks with a known label or a logit term among these rows."""
    active_T = rows.batch.mask_BT.any(0)
    for one in rows.rehearsed:
        if one.draw.logit_weight > 0:
            active_T[one.task] = True
    return active_T
