"""`replay`: any range of the ledger folded again, and proved to be what was published.

An audit reads topics and the state folder and changes neither. It begins at the newest checkpoint before the range, or
with nothing, and compares of every cut the records that were read and the digest of what came out, and the whole
state wherever a checkpoint or the ledger names its digest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stream_mtl.checkpoint import CheckpointInfo, CheckpointStore
from stream_mtl.config import Config
from stream_mtl.errors import ConfigError, ForeignState, RollForwardMismatch
from stream_mtl.ledger import Context, Entry, decode, links
from stream_mtl.manifest import Identity, Manifest
from stream_mtl.pipeline import Pipeline
from stream_mtl.recovery import (
    Candidates,
    ReadRanges,
    differences,
    find_start,
    restore,
    roll_forward,
)
from stream_mtl.snapshot import snapshot
from stream_mtl.state import State
from workers.context import context_of
from workers.ports import wall_ms
from workers.rollback import loader
from workers.stores import existing_store, saved_states

Told = Callable[[int, int], None]  # cuts done, cuts in all


@dataclass(frozen=True, slots=True)
class Proof:
    """What an audit found. `equal` speaks of every cut and state that could be compared."""

    first: int
    last: int
    started_from: str  # checkpoint, or "" for the empty state
    cuts: int
    compared: int
    states_compared: int
    equal: bool
    state_digest: str  # after the last cut
    fault: str = ""


class Before:
    """The checkpoints of a store of cuts before `first`; none without a store."""

    def __init__(self, store: CheckpointStore | None, first: int) -> None:
        self._store, self._first = store, first

    @property
    def where(self) -> str:
        return "" if self._store is None else self._store.where

    def list(self) -> Sequence[CheckpointInfo]:
        if self._store is None:
            return []
        return [info for info in self._store.list() if info.cut < self._first]

    def manifest(self, name: str) -> Manifest:
        assert self._store is not None
        return self._store.manifest(name)

    def load(self, name: str) -> tuple[State, Manifest]:
        assert self._store is not None
        return self._store.load(name)


class Archive:
    """The ledger and the inputs of a job, open for reading."""

    def __init__(self, config: Config) -> None:
        from stream_mtl.kafka.ledger_log import read_ledger
        from stream_mtl.kafka.source import Source

        self.config = config
        self.entries, _ = links([decode(raw, at) for at, raw in read_ledger(config)])
        if not self.entries:
            raise ConfigError(
                f"the ledger {config.topics.ledger} is empty: there is nothing to fold again; --bootstrap or -c "
                "names another broker"
            )
        self._source = Source(config, wall_ms)

    def __enter__(self) -> Archive:
        self._source.open(self.entries[-1].positions)
        return self

    def __exit__(self, *failure: object) -> None:
        self._source.close()

    @property
    def read(self) -> ReadRanges:
        return self._source.read

    @property
    def store(self) -> CheckpointStore | None:
        return existing_store(self.config)

    def before(self, first: int) -> Before:
        """Checkpoints that hold nothing of cut `first` or later."""
        return Before(self.store, first)

    def upto(self, last: int) -> list[Entry]:
        """Records up to a cut, without the lineages that begin after it."""
        kept = [entry for entry in self.entries if entry.cut <= last]
        while kept and kept[-1].record.kind != "cut":
            kept.pop()
        return kept

    def context(self, last: Entry) -> Context:
        return context_of(self.config, last.record, "replay")


def range_of(archive: Archive, first: int | None, last: int | None) -> tuple[int, int]:
    """The range that was asked for, within what the ledger holds. Raises ConfigError where it holds nothing of it."""
    cuts = [entry.cut for entry in archive.entries if entry.record.kind == "cut"]
    if not cuts:
        raise ConfigError("the ledger holds no cut yet")
    low, high = (cuts[0] if first is None else first), (cuts[-1] if last is None else last)
    if low > high or high < cuts[0] or low > cuts[-1]:
        raise ConfigError(
            f"cuts {low} to {high} were asked for, the ledger holds {cuts[0]} to {cuts[-1]}"
        )
    return max(low, cuts[0]), min(high, cuts[-1])


def prove(
    config: Config,
    first: int | None = None,
    last: int | None = None,
    from_nothing: bool = False,
    out: Path | None = None,
    told: Told = lambda done, whole: None,
) -> Proof:
    """Fold cuts `first` to `last` again and compare; with `out`, keep the state after `last` there as a checkpoint.

    Raises ForeignState when the range was written by other code, settings or on another kind of machine,
    CheckpointMissing when nothing reaches it, ConfigError for a range that the ledger does not hold.
    """
    from stream_mtl import build
    from stream_mtl.kafka.topics import cluster_id

    with Archive(config) as archive:
        low, high = range_of(archive, first, last)
        entries = archive.upto(high)
        context = archive.context(entries[-1])
        if found := differences(entries[-1].record, context):
            raise ForeignState(
                f"cut {high} cannot be folded again bit for bit: {'; '.join(found)}. Run the audit with the code and "
                "settings of that time, on the same kind of machine; the ledger names them"
            )
        start = find_start(
            Before(None, 0) if from_nothing else archive.before(low),
            lambda offset: [e for e in entries if offset is None or e.offset >= offset],
            cluster_id(config),
            context,
        )
        fold = build(config, context.lineage)
        restore(fold, start)
        audit = _Audit(context, _states(archive.before(high + 1), entries, context), low)
        try:
            replayed = roll_forward(
                fold, start, archive.read, loader(archive.before(high + 1), config), compare=False
            )
            for one in replayed:
                audit.compare(one.entry, one.result.digest, one.result.outputs_digest, fold)
                told(audit.cuts, len(start.cuts))
                if audit.fault:
                    break
        except RollForwardMismatch as error:  # the log holds other records than the cut saw
            audit.fault = str(error)
        if out is not None and not audit.fault:
            keep(out, fold, context, entries[-1], cluster_id(config))
    return Proof(
        first=low,
        last=high,
        started_from=start.name,
        cuts=audit.cuts,
        compared=audit.compared,
        states_compared=audit.states_compared,
        equal=not audit.fault,
        state_digest=fold.state_digest(),
        fault=audit.fault,
    )


@dataclass(slots=True)
class _Audit:
    """The running sums of one audit; it stops at the first fault, since all that follows would differ too."""

    context: Context
    states: dict[int, str]
    first: int
    cuts: int = 0
    compared: int = 0
    states_compared: int = 0
    fault: str = ""

    def compare(self, entry: Entry, digest: str, outputs_digest: str, fold: Pipeline) -> None:
        self.cuts += 1
        if differences(entry.record, self.context):
            return
        if entry.cut >= self.first:
            self.compared += 1
        if (digest, outputs_digest) != (entry.record.digest, entry.record.outputs_digest):
            self.fault = (
                f"cut {entry.cut}: digest {digest}, the ledger has {entry.record.digest}; written by code "
                f"{entry.record.code}, this is {self.context.code}"
            )
        elif entry.cut in self.states:
            self.states_compared += 1
            if fold.state_digest() != self.states[entry.cut]:
                self.fault = f"cut {entry.cut}: the state's digest is not that of its checkpoint"


def _states(store: Candidates, entries: Sequence[Entry], context: Context) -> dict[int, str]:
    """Cut -> digest of the state after it, by the ledger and by what checkpoints there are."""
    comparable = [entry for entry in entries if not differences(entry.record, context)]
    begun = {entry.cut for entry in entries if entry.record.kind == "lineage"}
    named = {
        e.record.checkpoint.cut: e.record.state_digest
        for e in comparable
        if e.record.checkpoint is not None and e.record.state_digest is not None
    } | saved_states(store, {entry.hash for entry in comparable if entry.record.kind == "cut"})
    # where a lineage began, a checkpoint of that cut may be of before it or of after it
    return {cut: digest for cut, digest in named.items() if cut not in begun}


def keep(folder: Path, fold: Pipeline, context: Context, last: Entry, cluster: str) -> str:
    """The state of a fold as a checkpoint of its own; its name."""
    identity = Identity.after(last, context, cluster)
    saved = CheckpointStore(folder).save(snapshot(fold.state()), identity, "replay", wall_ms())
    return saved.info.name
