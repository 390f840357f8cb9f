"""A state saved under another configuration, or by older code, taken over as far as it fits.

Keys of class `shape` change what the state looks like. A new lineage (`--new-lineage`) need not throw all of it away for
that: what fits is carried over as it is, the rest starts afresh, part by part:

    shop         catalogue, histories, counters, vectors, and what hangs on their places: lists due, recall, towers
    windows      open exposures, their features and the join's timers
    pending      labelled rows that wait for their step
    evaluation   prequential sums, probe sets, drift detectors
    index        which items stand near to which, where a catalogue is not searched exactly
    gate         the champion that serves, and the window it is judged on
    embeddings   the hashed table and its moments
    network      dense weights, moments, and what is made of them: average, heads tuned apart, regulariser, balancer
    rates        base rates of the labels, trust in the model
    memory NAME  remembered rows of one task

Rows name their embeddings by place, so a table of another length starts every part that holds rows afresh. Tasks that the
configuration adds behind the old ones are no change of the others (`task_set.grown`). Another text encoder makes
vectors anew (`reencoding`). A memory of another size keeps what fits of its rows. A pure function of the saved state and the empty one, so that every restart decides alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from stream_mtl.config import Config
from stream_mtl.errors import ConfigError, StateError
from stream_mtl.reencoding import is_another, reencoded
from stream_mtl.state import State
from stream_mtl.task_set import grown

_OWN = {  # of the learner: part of it -> the part of this page
    "table": "embeddings",
    "table_RH": "embeddings",
    "rates": "rates",
    "trust": "rates",
}
_STAGES = {
    "pipeline": "counts",
    "watermark": "windows",
    "join": "windows",
    "features": "windows",
    "shop": "shop",
    "scoring": "shop",
    "recall": "shop",
    "towers": "shop",
    "searches": "index",
    "throttle": "windows",
    "row_limit": "pending",
    "pending": "pending",
    "evaluation": "evaluation",
    "spans": "network",
    "publish_gate": "gate",
}
_WHOLE = ("embeddings", "network")  # every name of these must be there, none further
_NEEDS = {
    "windows": ("shop",),
    "index": ("shop",),
    "gate": ("network", "embeddings"),
}  # afresh when one of those is
_GROWING = (
    "shop",
    "windows",
    "index",
    "pending",
    "gate",
)  # as many rows as there are things to know
_TABLE = "learner/table_RH"
_WIDTHS = "pending"  # its rows say how wide a column of any rows is


class Fold(Protocol):
    def state(self) -> State: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...


@runtime_checkable
class Reads(Protocol):
    """A fold that reads texts."""

    config: Config

    def encode(self, texts: Sequence[str]) -> Tensor: ...


@runtime_checkable
class Remembers(Protocol):
    """A fold with memories of a configured size."""

    def at_capacity(self, saved: State) -> State: ...


@dataclass(frozen=True, slots=True)
class Carried:
    """A state that the fold of today can be restored from, and the parts in it that start afresh."""

    state: State
    afresh: tuple[str, ...]


def carried(saved: Mapping[str, Any], build: Callable[[], Fold]) -> Carried:
    """What of `saved` fits the fold that `build` makes, empty each time. Raises StateError when nothing would be left."""
    empty = build()
    fresh = dict(empty.state())
    old = _behind(dict(saved), fresh)
    if isinstance(empty, Reads) and is_another(old, fresh):
        old = reencoded(old, fresh, empty.encode, empty.config.features.table_rows)
    if isinstance(empty, Remembers):
        old = empty.at_capacity(old)
    parts = {part_of(name) for name in fresh}
    afresh = _follow({part for part in parts if not _fits(part, old, fresh)}) & parts
    while len(afresh) < len(parts):
        state = _mixed(old, fresh, afresh)
        if _restores(state, build):
            return Carried(state, tuple(sorted(afresh)))
        afresh = _follow(afresh | {_culprit(old, fresh, afresh, build)}) & parts
    raise StateError(
        "nothing of the saved state fits this configuration; use the one it was saved with, or a state folder of its "
        "own and --cold-start"
    )


def part_of(name: str) -> str:
    """The part of this page that a name of the state belongs to."""
    stage, _, rest = name.partition("/")
    if stage != "learner":
        return _STAGES.get(stage, stage)
    inner, _, further = rest.partition("/")
    if inner == "memory":
        return f"memory {further.partition('/')[0]}"
    return _OWN.get(inner, "network")


def _behind(saved: State, fresh: State) -> State:
    """The saved state with columns for tasks that the configuration has put behind its tasks."""
    before, now = saved.get("evaluation/tasks", []), fresh.get("evaluation/tasks", [])
    if not before or before == now or list(now[: len(before)]) != list(before):
        return saved
    return grown(saved, fresh)


def _follow(afresh: set[str]) -> set[str]:
    """And those that mean nothing without them."""
    return afresh | {part for part, needed in _NEEDS.items() if afresh & set(needed)}


def _fits(part: str, old: State, fresh: State) -> bool:
    saved, new = ({n: v for n, v in s.items() if part_of(n) == part} for s in (old, fresh))
    if not saved or (part in _WHOLE and saved.keys() != new.keys()):
        return False
    if _table_rows(old) != _table_rows(fresh) and any(
        _column(name).startswith("sparse") for name in saved
    ):
        return False
    return all(_like(name, value, fresh) for name, value in saved.items())


def _table_rows(state: State) -> int:
    table = state.get(_TABLE)
    return len(table) if isinstance(table, Tensor) else 0


def _like(name: str, value: object, fresh: State) -> bool:
    """Whether a saved value has the type of the new one; rows may be fewer or more."""
    model = fresh.get(name, fresh.get(f"{_WIDTHS}/{_column(name)}"))
    if model is None:
        return True  # of rows that an empty state does not name: its restore is the judge
    if part_of(name).startswith("memory") and _column(name) == "keys":
        return bool(value == model)  # of another policy
    if not (isinstance(value, Tensor) and isinstance(model, Tensor)):
        return isinstance(value, Tensor) == isinstance(model, Tensor)
    if value.dtype != model.dtype or value.dim() != model.dim():
        return False
    grows = part_of(name) in _GROWING or name not in fresh
    pairs = list(zip(value.shape, model.shape, strict=True))[1 if grows else 0 :]
    return all(there == here or (grows and here == 0) for there, here in pairs)


def _column(name: str) -> str:
    return name.rpartition("/")[2]


def _mixed(old: State, fresh: State, afresh: set[str]) -> State:
    """Names that only one of both has: newer code knows more, rows come and go."""
    taken = {name: value for name, value in old.items() if part_of(name) not in afresh}
    lacking = {n: v for n, v in fresh.items() if n not in taken}
    return taken | lacking


def _culprit(old: State, fresh: State, afresh: set[str], build: Callable[[], Fold]) -> str:
    """The part without which the rest can be restored; where several are at fault, one after the other in their order."""
    kept = sorted({part_of(name) for name in fresh} - afresh)
    for part in kept:
        if _restores(_mixed(old, fresh, afresh | {part}), build):
            return part
    return kept[0]


def _restores(state: State, build: Callable[[], Fold]) -> bool:
    try:
        build().restore(state)
    except (StateError, ConfigError, KeyError, ValueError, TypeError, RuntimeError, IndexError):
        return False
    return True
