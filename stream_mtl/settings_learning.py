"""Settings of what learns: model, balancer, memory, rehearsal, optimisers, steps."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stream_mtl.settings_base import NonNegative, Positive, Section, Share


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
    name: str = Field(
        "weighted",
        description="of losses: weighted, pooled, sum, mean, max, smooth_max, random, uw, uw_so, dwa, recap, recap_slow,"
        " famo; of gradients: gradnorm, pcgrad, cagrad, upgrad, aligned",
    )
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
    user_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="of its room, one user's rows at most; 1 = no limit, 0.01 = safe",
    )
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
    young_steps: NonNegative = Field(
        50,
        description="steps after which the logits that a model stores count half, n / (n + young_steps) after n (der, der++);"
        " 0 = all count in full",
    )
    max_version_age: NonNegative = Field(
        0, description="logits stored more steps ago teach nothing (der, der++); 0 = no limit"
    )
    lwf_every: NonNegative = Field(
        1_000,
        description="lwf: steps between two copies of the model, beside those at the end of spans; 0 = those alone",
    )
    span_ms: NonNegative = Field(
        0,
        description="event time after which a span of the stream ends (lwf, regularizer); a drift alarm ends one"
        " too; 0 = drift alone",
    )
    regularizer: str = Field(
        "none",
        description="holds dense parameters near where they were when a span ended: none, ewc, mas, rwalk, si",
    )
    regularizer_strength: float = Field(1.0, ge=0, description="factor of its penalty")
    regularizer_keep: Share = Field(
        0.9, description="part of older importances that the end of a span leaves (ewc, mas)"
    )
    regularizer_rows: Positive = Field(
        1_024, description="remembered rows that it looks at when a span ends (ewc, mas)"
    )


class Optimizer(Section):
    dense: Literal["adamw", "sgd"] = "adamw"
    dense_lr: float = Field(5e-4, gt=0, description="rate of the dense parameters in the long run")
    first_lr: float = Field(2e-3, gt=0, description="of the first step; fades to dense_lr")
    lr_half_life: Positive = Field(200, description="steps in which the difference halves")
    weight_decay: float = Field(1e-5, ge=0)
    table: Literal["rowwise_adagrad", "sgd"] = "rowwise_adagrad"
    table_lr: float = Field(0.01, gt=0)
    clip_norm: float = Field(5.0, gt=0, description="of the gradient of a step")
    clip_row_loss: NonNegative = Field(
        12,
        description="nats beyond which a row's label teaches nothing more, as if it were a lie; 0 = no limit",
    )


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
