"""Settings of one business task, and what does not go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from stream_mtl.settings_base import NonNegative, Positive, Section

# what only some kinds have; set for another one it would do nothing
OF_KINDS: Mapping[str, tuple[str, ...]] = {
    "after": ("funnel",),
    "listwise": ("binary",),
    "smoothing": ("binary", "multiclass"),
    "center": ("regression",),
    "scale": ("regression",),
    "log": ("regression",),
}


class Task(Section):
    """One business task. `kind` picks the task kind, `weight` its declared importance among the losses."""

    kind: Literal["binary", "funnel", "listwise", "multiclass", "regression"]
    weight: float = Field(1.0, gt=0)
    after: str | None = Field(
        None, description="funnel: the task whose positive comes first (ESMM)"
    )
    listwise: float = Field(
        0.0,
        ge=0,
        description="binary: weight of a ranking loss over a click and its drawn negatives",
    )
    ranking: Literal["softmax", "lambdarank", "jrc"] = Field(
        "softmax",
        description="listwise: how the rows of a list are compared; binary: the same, of `listwise`",
    )
    imbalance: Literal["none", "class_weights", "focal"] = Field(
        "none",
        description="binary, multiclass: a loss for rare classes; probabilities are corrected for it",
    )
    class_weights: tuple[float, ...] = Field(
        (), description="imbalance: of every class; of a yes or no: no, yes"
    )
    focal_gamma: float = Field(2.0, gt=0, description="focal: 0 would be the plain cross-entropy")
    keep_negatives: float = Field(
        1.0,
        gt=0,
        le=1,
        description="binary, funnel: share of the negatives that is learned from, chosen by a hash of the row;"
        " probabilities are corrected for it exactly",
    )
    position: Literal["bias", "ipw", "none"] = Field(
        "bias",
        description="binary, listwise: learn what a place is worth (bias), count a positive by the inverse"
        " propensity of its place (ipw), or neither",
    )
    propensities: tuple[float, ...] = Field(
        (),
        description="ipw: P(looked at) of places 1, 2, ...; the first is 1, the last holds beyond",
    )
    label: str = Field("", description="where labels come from; empty: the task's own name")
    window_ms: Positive | None = Field(
        None,
        description="cart, purchase: how long after an exposure it counts, and when the label is known; below"
        " join.purchase_window_ms, which holds where this is absent",
    )
    fields: tuple[str, ...] = Field(
        (),
        description="what it may use: names, patterns or groups (@item, @reader, @pair) of fields, with a leading !"
        " what it may not; empty: all",
    )
    above: float | None = Field(
        None, description="learn whether the label is at least this, not the label itself"
    )
    classes: NonNegative = Field(0, description="multiclass: how many there can be")
    values: tuple[str, ...] = Field(
        (), description="multiclass: their names, in order; empty: as they come, up to `classes`"
    )
    smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="binary, multiclass: part of a label that is spread over all classes; moves a rare"
        " task's probabilities up",
    )
    correction: Literal["none", "ips", "dr"] = Field(
        "none",
        description="funnel: also learn the step's own rate for all rows, not only those that got to it, by"
        " inverse propensities (ips) or doubly robust (dr)",
    )
    correction_weight: float = Field(0.1, gt=0, description="funnel: of that loss")
    propensity_floor: float = Field(
        0.02,
        gt=0,
        lt=1,
        description="funnel: least probability of getting to the step that is divided by",
    )
    center: float = Field(0.0, description="regression: the label that a new head predicts")
    scale: float = Field(
        1.0, gt=0, description="regression: one unit of the head, about the labels' deviation"
    )
    log: bool = Field(False, description="regression: center and scale are of log(1 + label)")

    delay: Literal["window", "vanilla", "fnw", "fnc", "es_dfm", "defuse"] = Field(
        "window",
        description="binary, funnel: learn when the window closes, or from provisional labels by one of these",
    )
    early_ms: NonNegative = Field(
        0,
        description="wait before the provisional label goes out, from the exposure on; at least"
        " join.click_window_ms, but for a click that nothing had shown",
    )

    @model_validator(mode="before")
    @classmethod
    def _count_values(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("values") and not given.get("classes"):
            return {**given, "classes": len(given["values"])}
        return given

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Task:
        if self.values and self.classes != len(self.values):
            raise ValueError(
                f"classes = {self.classes}, but {len(self.values)} `values` are named; leave `classes` out"
            )
        if (self.kind == "multiclass") != (self.classes > 0):
            raise ValueError(
                f"kind {self.kind!r} with classes = {self.classes}: `classes` is for kind"
                " 'multiclass', which needs it"
            )
        for name, kinds in OF_KINDS.items():
            if (
                self.kind not in kinds
                and getattr(self, name) != type(self).model_fields[name].default
            ):
                raise ValueError(
                    f"kind {self.kind!r} with {name} = {getattr(self, name)!r}: it is for kind"
                    f" {' or '.join(map(repr, kinds))}; leave it out, or change the kind"
                )
        self._fits_its_labels()
        if self.correction != "none" and self.kind != "funnel":
            raise ValueError(
                f"kind {self.kind!r} with correction = {self.correction!r}: only a task of kind 'funnel' has"
                " a step before it to correct for"
            )
        if self.delay != "window" and (
            self.kind not in ("binary", "funnel") or self.listwise or self.correction != "none"
        ):
            raise ValueError(
                f"kind {self.kind!r} with delay = {self.delay!r}: provisional labels are for kinds 'binary'"
                " (without `listwise`) and 'funnel' (without `correction`); use delay = 'window'"
            )
        if self.early_ms and self.delay == "window":
            raise ValueError(
                f"early_ms = {self.early_ms} with delay = 'window': no provisional label goes out; choose a"
                " `delay`, or leave it out"
            )
        return self

    def _fits_its_labels(self) -> None:
        """Losses that need a certain kind of label, or that do not go together."""
        for fault in (
            _ranking_fault(self),
            _imbalance_fault(self),
            _thinning_fault(self),
            _position_fault(self),
        ):
            if fault:
                raise ValueError(fault)


def _ranking_fault(task: Task) -> str:
    if task.ranking == "softmax" or task.kind == "listwise":
        return ""
    if task.kind != "binary" or not task.listwise:
        return (
            f"kind {task.kind!r} with ranking = {task.ranking!r}: only kind 'listwise', and 'binary' with"
            " `listwise`, compare the rows of a list"
        )
    if task.ranking == "jrc":
        return "ranking = 'jrc' needs two logits, which kind 'binary' has not; use kind 'listwise'"
    return ""


def _imbalance_fault(task: Task) -> str:
    if task.imbalance == "none":
        return (
            "class_weights need imbalance = 'class_weights' or 'focal'"
            if task.class_weights
            else ""
        )
    found = f"imbalance = {task.imbalance!r}"
    if task.kind not in ("binary", "multiclass"):
        return (
            f"kind {task.kind!r} with {found}: it is for kinds 'binary' and 'multiclass'; a funnel's rare step"
            " has keep_negatives"
        )
    if task.smoothing or task.delay != "window":
        return f"{found} goes neither with `smoothing` nor with a `delay`; drop one"
    if task.imbalance == "focal" and (task.listwise or task.keep_negatives < 1):
        return (
            f"{found} goes neither with `listwise` nor with keep_negatives: its logits are no log-odds that"
            " drawn or dropped negatives could be undone in; use 'class_weights'"
        )
    classes = task.classes or 2
    if len(task.class_weights) not in ((0, classes) if task.imbalance == "focal" else (classes,)):
        return f"{found} needs class_weights of {classes} classes, found {len(task.class_weights)}"
    if any(weight <= 0 for weight in task.class_weights):
        return f"class_weights = {task.class_weights} must be above 0"
    return ""


def _thinning_fault(task: Task) -> str:
    if task.keep_negatives == 1:
        return ""
    if task.kind not in ("binary", "funnel") or task.listwise:
        return (
            f"kind {task.kind!r} with keep_negatives = {task.keep_negatives}: negatives can be dropped where rows"
            " are judged one by one; use kind 'binary' (without `listwise`) or 'funnel'"
        )
    if task.delay != "window" or task.correction != "none" or task.smoothing:
        return "keep_negatives goes with none of `delay`, `correction` and `smoothing`; drop one"
    return ""


def _position_fault(task: Task) -> str:
    if task.position != "bias" and task.kind not in ("binary", "listwise"):
        return (
            f"kind {task.kind!r} with position = {task.position!r}: places matter where it is judged what was"
            " shown, kinds 'binary' and 'listwise'; a funnel follows its first step"
        )
    if (task.position == "ipw") != bool(task.propensities):
        return (
            f"position = {task.position!r} with {len(task.propensities)} `propensities`: 'ipw' needs them, and"
            " nothing else uses them"
        )
    if not task.propensities:
        return ""
    if task.propensities[0] != 1 or not all(0 < theta <= 1 for theta in task.propensities):
        return (
            f"propensities = {task.propensities} must be above 0 and at most 1, and that of the first place 1:"
            " they are known up to a factor only"
        )
    if task.ranking == "jrc" or task.imbalance == "focal" or task.keep_negatives < 1:
        return (
            "position = 'ipw' goes with none of ranking = 'jrc', imbalance = 'focal' and keep_negatives: they"
            " take a label for a yes or no; drop one"
        )
    if task.smoothing or task.delay != "window":
        return "position = 'ipw' goes neither with `smoothing` nor with a `delay`; drop one"
    return ""
