"""What a run left behind, as plain values: the checker judges these and knows neither Kafka nor the worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

Place = tuple[str, int]  # topic, partition
Spot = tuple[str, int, int]  # topic, partition, offset


@dataclass(frozen=True)
class Span:
    """What one cut read of one partition: offsets [start, stop)."""

    place: Place
    start: int
    stop: int


@dataclass(frozen=True)
class LedgerCut:
    """One committed ledger record, as a `read_committed` reader found it."""

    number: int
    hash: str
    previous: str
    digest: str
    spans: tuple[Span, ...]
    instance: str = ""


@dataclass(frozen=True)
class Folded:
    """What the fault-free fold of the same cut gives."""

    digest: str
    scores: Counter[tuple[str, str]]  # (key, hash of the value)
    state_digest: str = ""  # after this cut; only where somebody else tells one too


@dataclass(frozen=True)
class Partition:
    """A partition of the input as it lies there: offsets [low, high), and of which of them are records."""

    low: int
    high: int
    records: frozenset[int]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder: what its manifest says, and whether it could be loaded with its digest."""

    name: str
    cut: int
    ledger_hash: str
    state_digest: str
    usable: bool
    positions: Mapping[Place, int]


@dataclass(frozen=True)
class Call:
    """One line of the diary of the sink's calls."""

    call: str
    outcome: str
    cut: int
    by: str  # incarnation of the process
    at: float  # wall time, s


@dataclass
class History:
    """The whole of it. `complete`: the worker was left to read to the end of its input."""

    cuts: list[LedgerCut] = field(default_factory=list)
    folded: dict[int, Folded] = field(default_factory=dict)
    scores: Counter[tuple[int, str, str]] = field(default_factory=Counter)  # cut, key, value hash
    letters: Counter[Spot] = field(default_factory=Counter)
    inputs: dict[Place, Partition] = field(default_factory=dict)
    poison: set[Spot] = field(default_factory=set)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    told_states: dict[int, str] = field(default_factory=dict)  # cut -> digest that the ledger names
    calls: list[Call] = field(default_factory=list)
    complete: bool = True
