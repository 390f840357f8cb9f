"""What a task kind promises. Legend: B rows, C logit columns of all heads, W columns of one head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

Spread = Literal["entropy", "class_entropy", "variance"]
Correction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
YES_NO = (0.5,)  # parts the labels of a yes or no
RATE_METRICS = ("auc", "normalized_entropy", "calibration", "ece", "gauc")  # of a probability


@dataclass(frozen=True, slots=True)
class Place:
    """Where one task stands among the others."""

    task: int  # its label, mask and head
    column: int  # first of its head's logits
    width: int = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says of one task, beside its weight."""

    listwise: float = 0.0  # binary: how much a listwise term weighs
    ranking: str = "softmax"  # binary, listwise: what that term is (`rankings`)
    imbalance: str = "none"  # binary, multiclass: for rare classes (`imbalances`)
    class_weights: tuple[float, ...] = ()  # of that
    focal_gamma: float = 2.0
    keep_negatives: float = 1.0  # share of the negatives that are learned from (`thinning`)
    place_bias: bool = True  # of a task with a prior: the head learns what a place is worth
    propensities: tuple[float, ...] = ()  # of being looked at, by place; empty: not used
    classes: int = 0  # multiclass: size of the head
    smoothing: float = 0.0  # part of the label that is spread over all classes
    correction: Literal["none", "ips", "dr"] = "none"  # funnel: of the step's own rate
    correction_weight: float = 0.1
    propensity_floor: float = 0.02  # probability below which a step that was reached counts no more
    center: float = 0.0  # regression: the label that a logit of 0 stands for
    scale: float = 1.0  # regression: what a logit of 1 adds
    log: bool = False  # regression: learn log(1 + label)


class TaskKind(Protocol):
    """One loss and the prediction that belongs to it; holds no parameters and no state."""

    @property
    def unit(self) -> str:
        """What its score is, in words."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names in the evaluation's summary that say how good it is, beside the counts."""
        ...

    @property
    def width(self) -> int:
        """Logits of the task's own head."""
        ...

    @property
    def helpers(self) -> int:
        """How many of them, the last, learn of what the task reads without moving it."""
        ...

    @property
    def tasks(self) -> tuple[int, ...]:
        """Tasks whose heads the loss reads, the own one first; they move when the task is active."""
        ...

    @property
    def columns(self) -> tuple[int, ...]:
        """Logits that the loss reads, its own `width` first."""
        ...

    @property
    def whole_lists(self) -> bool:
        """Whether the loss compares rows of a list, so that the memory must keep lists whole."""
        ...

    @property
    def has_prior(self) -> bool:
        """Whether the head adds the candidates' own order and a position bias to its first logit."""
        ...

    @property
    def place_bias(self) -> bool:
        """Whether a position bias is added beside the prior."""
        ...

    @property
    def propensities(self) -> tuple[float, ...]:
        """P(looked at) by place, the first 1: a positive's label counts its inverse (`joint_loss`). Empty: 1."""
        ...

    @property
    def kept_negatives(self) -> float:
        """Share of the negatives that is learned from; the loss undoes it."""
        ...

    @property
    def shifts(self) -> bool:
        """Whether adding log-ratios of classes to the head's logits in training undoes a sampling of them exactly."""
        ...

    @property
    def edges(self) -> tuple[float, ...]:
        """Ascending; part the labels into classes, for memories and samplers."""
        ...

    @property
    def correction(self) -> Correction | None:
        """Adds to the loss (B), from logits (B x C), label, mask, and whether the step before was reached; None: nothing."""
        ...

    @property
    def base_rate(self) -> float:
        """Of the sigmoid of the head's logits before the first step; .5, a logit of 0, where that is no rate."""
        ...

    @property
    def spread(self) -> Spread:
        """What a loss is divided by, so that 1 is as good as knowing the labels' distribution alone."""
        ...

    def loss(
        self,
        logit_BC: Tensor,
        label_B: Tensor,
        mask_B: Tensor,
        list_key_B: Tensor,
        drawn_B: Tensor,
    ) -> Tensor:
        """Unreduced loss of shape B, in nats (or squared units) a row; exactly 0 where the label is unknown.

        `logit_BC` already holds the sampling offset; rows of one list stand together. `drawn_B` marks
        rows of lists that nobody was shown: a click and its sampled negatives. A positive label of a kind with
        `propensities` may be above 1.
        """
        ...

    def target(self, label_B: Tensor) -> Tensor:
        """The label in the unit of the loss."""
        ...

    def score(self, logit_BC: Tensor) -> Tensor:
        """One number a row (shape B), from logits without the sampling offset: a probability, or a value."""
        ...

    def outputs(self, logit_BC: Tensor) -> Tensor:
        """All that is predicted, B x width: what `score` says, or the probability of every class."""
        ...


class NewKind(Protocol):
    """Makes a kind from the places of the own task and of those it comes after, the nearest first."""

    def __call__(
        self, place: Place, settings: Settings, after: Sequence[Place] = ()
    ) -> TaskKind: ...
