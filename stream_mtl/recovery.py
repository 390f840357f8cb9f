"""From a ledger and a folder of checkpoints to the state after the last committed cut.

1. refuse a ledger that this worker cannot continue: other app, config, fold version, environment
2. find the newest good checkpoint that the ledger knows; else the empty state, where the ledger shows
   that it began there
3. fold the cuts after it again, silently, and compare each digest with the ledger's

Which cuts are folded and compared follows from the ledger alone, so every restart does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from schemas.scores import LedgerRecord
from stream_mtl.carry_over import carried
from stream_mtl.checkpoint import CheckpointInfo
from stream_mtl.cut import Cut, CutResult, Range, Record
from stream_mtl.environment import unlike
from stream_mtl.errors import (
    CheckpointCorrupt,
    CheckpointMissing,
    ForeignState,
    PositionLost,
    RollForwardMismatch,
    StateError,
)
from stream_mtl.failpoints import Failpoint, unarmed
from stream_mtl.ledger import Context, Durable, Entry, Partition, cut_of, links, ranges_of
from stream_mtl.manifest import Manifest
from stream_mtl.rollback import ROLLBACK
from stream_mtl.state import State

COLD_START, TOPICS_RECREATED = "cold_start", "topics_recreated"
NEW_CODE, NEW_ENVIRONMENT = "new_code_or_config", "new_environment"
# After these lineage records the cuts before them are never folded again: the state began empty, or the
# records are gone.
_BARRIERS = (COLD_START, TOPICS_RECREATED)


class Fold(Protocol):
    """What is recovered: `stream_mtl.pipeline.Pipeline`, or a stand-in of a test."""

    lineage: str

    def step(self, cut: Cut) -> CutResult: ...
    def state(self) -> State: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...
    def state_digest(self) -> str: ...

    def roll_back(self, saved: Mapping[str, Any], cut: int) -> None:
        """Take what `saved`, the state after `cut`, had learned. StateError where it does not fit."""
        ...


class Candidates(Protocol):
    """Where checkpoints are looked for: `stream_mtl.checkpoint.CheckpointStore`, or a choice of it."""

    @property
    def where(self) -> str: ...

    def list(self) -> Sequence[CheckpointInfo]: ...
    def manifest(self, name: str) -> Manifest: ...
    def load(self, name: str) -> tuple[State, Manifest]: ...


ReadRanges = Callable[[Sequence[Range]], Sequence[Record]]
LoadState = Callable[[str], tuple[State, str]]  # a checkpoint by its name: the state and its digest
ReadLedger = Callable[[int | None], Sequence[Entry]]  # from an offset on, None: all of it


@dataclass(frozen=True, slots=True)
class Start:
    """Where a roll-forward begins: a checkpoint's state or the empty one, and the cuts to fold."""

    state: State | None  # None: the fold as it was built
    manifest: Manifest | None
    name: str  # of the checkpoint, "" for the empty state
    steps: tuple[Entry, ...]  # cuts to fold, and between them the rollbacks
    last: Entry  # the newest record of the ledger
    lineage_began: bool  # the newest record begins a lineage that no checkpoint holds yet
    refused: tuple[str, ...]  # newer checkpoints that were not usable, and why
    cold: bool = False  # nothing reaches the last cut; an empty model takes over by request

    @property
    def cuts(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.steps if entry.record.kind == "cut")

    def is_of_others(self, ours: Context) -> bool:
        """Whether its state was saved under other settings, or by code that folds otherwise."""
        if self.manifest is None:
            return False
        identity = self.manifest.identity
        return (identity.config_hash, identity.fold_version) != (
            ours.config_hash,
            ours.fold_version,
        )

    @property
    def durable(self) -> Durable | None:
        if self.manifest is None:
            return None
        return Durable(self.name, self.manifest.identity.cut, self.manifest.state_digest)


def moved(record: LedgerRecord, ours: Context) -> bool:
    """Whether nothing but the environment keeps digests of `record` from being compared with ours."""
    found = differences(record, ours)
    return bool(found) and found == unlike(ours.environment, record.environment)


def differences(record: LedgerRecord, ours: Context) -> list[str]:
    """What keeps digests of `record` from being compared with ours, in words that name the key."""
    found = []
    if record.fold_version != ours.fold_version:
        found.append(f"fold_version is {ours.fold_version} here, {record.fold_version} there")
    if record.config_hash != ours.config_hash:
        found.append("config keys that change the fold differ")
    return found + unlike(ours.environment, record.environment)


def refuse_foreign(last: LedgerRecord, ours: Context, new_lineage: bool, hint: str = "") -> None:
    """ForeignState unless this worker may go on where `last` ended."""
    if last.app != ours.app:
        raise ForeignState(
            f"the ledger is of app {last.app!r}, this is {ours.app!r}; give each app a ledger topic of its "
            "own (topics.ledger)"
        )
    found = differences(last, ours)
    if found and not new_lineage:
        by_itself = (
            '; with other_environment = "new_lineage" it does so by itself'
            if moved(last, ours)
            else ""
        )
        raise ForeignState(
            f"the ledger cannot be continued with equal digests: {'; '.join(found)}"
            f"{f' ({hint})' if hint else ''}. Go back to what it was written with, or use --new-lineage to "
            "carry the state over into a new lineage" + by_itself
        )


def find_start(
    store: Candidates,
    read_ledger: ReadLedger,
    cluster: str,
    ours: Context,
    cold_start: bool = False,
) -> Start:
    """The newest place from which the last cut can be reached.

    Raises ForeignState for checkpoints of another job or a broken ledger, CheckpointMissing when
    nothing reaches the last cut and `cold_start` does not allow an empty model in its place.
    """
    refused: list[str] = []
    for info in store.list():
        try:
            manifest = store.manifest(info.name)
            _refuse_stranger(store.where, info, manifest, cluster, ours)
            entries = _known(read_ledger, manifest)
            place = _place(entries, manifest)
            if place is None:
                refused.append(f"{info.name}: the ledger has no record with its hash")
                continue
            state = store.load(info.name)[0]
        except (CheckpointCorrupt, PositionLost) as error:
            refused.append(str(error))
            continue
        return _start(entries[place:], 1, state, manifest, info.name, refused)
    return _without_checkpoint(list(read_ledger(None)), cold_start, refused)


def _known(read_ledger: ReadLedger, manifest: Manifest) -> list[Entry]:
    """The ledger from the checkpoint's record on; all of it when its offset was not known."""
    offset = manifest.identity.ledger_offset
    return list(read_ledger(offset if offset >= 0 else None))


def _place(entries: Sequence[Entry], manifest: Manifest) -> int | None:
    for place, entry in enumerate(entries):
        if entry.hash == manifest.identity.ledger_hash:
            return place
    return None


def _refuse_stranger(
    where: str, info: CheckpointInfo, manifest: Manifest, cluster: str, ours: Context
) -> None:
    identity = manifest.identity
    for what, there, here in (
        ("app", identity.app, ours.app),
        ("cluster", identity.cluster, cluster),
    ):
        if there != here:
            raise ForeignState(
                f"checkpoint {info.name} in {where} is of {what} {there!r}, this is {here!r}; "
                "give each job a state folder of its own (--state)"
            )


def _start(
    entries: Sequence[Entry],
    known: int,
    state: State | None,
    manifest: Manifest | None,
    name: str,
    refused: Sequence[str],
) -> Start:
    """From a state that holds the first `known` of these entries on, past the last barrier."""
    kept, chain = links(entries)
    if chain.broken or chain.overlaps:
        raise ForeignState(
            f"the ledger is broken after cut {kept[0].cut}: {chain.faults[0]}; somebody else wrote to it, "
            "or records were lost. Restore the topic, or use another state folder and --cold-start"
        )
    barrier, reason = _barrier(kept, known)
    if reason == COLD_START:
        state, manifest, name = None, None, ""
    steps = tuple(
        e
        for e in kept[max(barrier + 1, known) :]
        if e.record.kind == "cut" or lineage_reason(e.record) == ROLLBACK
    )
    last = kept[-1]
    held = manifest is not None and manifest.identity.ledger_hash == last.hash
    began = last.record.kind == "lineage" and not held
    return Start(state, manifest, name, steps, last, began, tuple(refused))


def _barrier(entries: Sequence[Entry], known: int) -> tuple[int, str]:
    """Place and reason of the last barrier beyond the first `known` entries; (-1, "") without one."""
    for place in range(len(entries) - 1, known - 1, -1):
        reason = lineage_reason(entries[place].record)
        if reason in _BARRIERS:
            return place, reason
    return -1, ""


def lineage_reason(record: LedgerRecord) -> str:
    """Why a lineage began; "" for the record of a cut."""
    if record.kind != "lineage" or not record.decisions:
        return ""
    return str(record.decisions[0].get("reason", ""))


def _without_checkpoint(entries: list[Entry], cold_start: bool, refused: Sequence[str]) -> Start:
    """The empty state is known at the very first cut, and after a record that says so."""
    kept, _ = links(entries)
    for place in range(len(kept) - 1, -1, -1):
        if lineage_reason(kept[place].record) == COLD_START:
            return _start(kept[place:], 1, None, None, "", refused)
    last = kept[-1]
    if cold_start:
        return Start(None, None, "", (), last, False, tuple(refused), cold=True)
    recreated = any(lineage_reason(entry.record) == TOPICS_RECREATED for entry in kept)
    if kept[0].cut == 0 and kept[0].record.previous == "" and not recreated:
        return _start(kept, 0, None, None, "", refused)
    raise CheckpointMissing(
        f"the ledger ends at cut {last.cut} and no checkpoint reaches it"
        f"{'; refused: ' + '; '.join(refused[:3]) if refused else ''}. Restore the state folder, or use "
        "--cold-start to begin an empty model at the committed positions"
    )


@dataclass(frozen=True, slots=True)
class Replayed:
    """A cut of the ledger, folded again."""

    entry: Entry
    cut: Cut
    result: CutResult


def restore(fold: Fold, start: Start, build: Callable[[], Fold] | None = None) -> tuple[str, ...]:
    """Put the checkpoint's state into the fold; StateError when it does not come back as it was saved.

    `build`, an empty fold, where the state was saved under other settings or by other code: what fits is carried over
    (`carry_over`). Gives the parts that start afresh.
    """
    if start.state is None or start.manifest is None:
        return ()
    if build is not None:
        found = carried(start.state, build)
        fold.restore(found.state)
        return found.afresh
    _restore_exactly(fold, start.name, start.state)
    if fold.state_digest() != start.manifest.state_digest:
        raise StateError(
            f"checkpoint {start.name} was read whole, but the restored state has another digest; a "
            "component does not restore all that it saves. This is a bug; an older release may read it"
        )
    return ()


def _restore_exactly(fold: Fold, name: str, state: State) -> None:
    own = fold.state()
    for key, value in state.items():
        there, here = (getattr(one, "dtype", None) for one in (value, own.get(key)))
        if key in own and there != here:
            raise StateError(
                f"checkpoint {name}: {key} is {there or 'no tensor'}, expected {here or 'no tensor'};"
                " it is of another release or not of this worker"
            )
    try:
        fold.restore(state)
    except StateError:
        raise
    except Exception as error:  # what a state of a stranger does to a component, nobody can list
        raise StateError(
            f"checkpoint {name} was read whole, but is no state of this config"
            f" ({type(error).__name__} while restoring). Use the state folder of this app, or --cold-start"
        ) from error


def roll_forward(
    fold: Fold,
    start: Start,
    read: ReadRanges,
    load: LoadState,
    compare: bool,
    code: str = "",
    failpoint: Failpoint = unarmed,
) -> Iterator[Replayed]:
    """Fold the ledger's cuts again, one a step, and go back again where it went back; nothing is published here.

    Digests are compared within the newest lineage and those that it came from by rollbacks (others may stem from
    other code), and not at all without `compare`. `code` is ours, for the message. Raises RollForwardMismatch with
    the number of the first cut that differs, CheckpointMissing when a cut's input has expired or the checkpoint of a
    rollback is gone.
    """
    comparable = _comparable(start) if compare else frozenset()
    if start.steps:
        failpoint("rollforward.first")
    for entry in start.steps:
        fold.lineage = entry.record.lineage
        if entry.record.kind != "cut":
            go_back(fold, entry.record.decisions[0], load)
            failpoint("rollforward.rollback")
            continue
        record = entry.record
        cut = cut_of(record, _read(read, entry, start))
        result = fold.step(cut)
        if record.lineage in comparable and result.digest != record.digest:
            raise RollForwardMismatch(
                f"cut {entry.cut}, folded again from {start.name or 'the beginning'}, has digest "
                f"{result.digest}, the ledger has {record.digest}; it was written by code {record.code} on"
                f" {record.environment.get('processor', 'an unknown processor')}, this is {code}. Finish the"
                " roll-forward with the code and on the kind of machine that wrote it, or go on without the"
                " comparison by --new-lineage"
            )
        failpoint("rollforward.cut")
        yield Replayed(entry, cut, result)


def _comparable(start: Start) -> frozenset[str]:
    """Lineages of the same code and settings as the last record's."""
    last = start.last.record
    found, names = {last.lineage}, [entry.record.lineage for entry in start.steps]
    for place in range(len(names) - 1, 0, -1):
        after, before = start.steps[place].record, start.steps[place - 1].record
        same = (before.fold_version, before.config_hash) == (last.fold_version, last.config_hash)
        alike = same and not unlike(last.environment, before.environment)
        if lineage_reason(after) == ROLLBACK and after.lineage in found and alike:
            found.add(before.lineage)
    return frozenset(found)


def go_back(fold: Fold, decision: Mapping[str, Any], load: LoadState) -> None:
    """Carry out the rollback of a ledger's decision. Raises CheckpointMissing when its checkpoint cannot be had."""
    name, cut = str(decision["checkpoint"]), int(decision["checkpoint_cut"])
    try:
        state, digest = load(name)
    except CheckpointCorrupt as error:
        raise CheckpointMissing(
            f"the ledger goes back to checkpoint {name} of cut {cut}, which cannot be had ({error}). Restore it "
            "to the state folder, or a checkpoint that is newer than the rollback"
        ) from error
    if digest != decision["state_digest"]:
        raise CheckpointMissing(
            f"the ledger goes back to checkpoint {name} of cut {cut}, but the one of that name holds another "
            "state. Restore the right one to the state folder"
        )
    fold.roll_back(state, cut)


def _read(read: ReadRanges, entry: Entry, start: Start) -> Sequence[Record]:
    try:
        return read(ranges_of(entry.record))
    except PositionLost as error:
        raise CheckpointMissing(
            f"cut {entry.cut} must be folded again from {start.name or 'the beginning'}, but its records are "
            f"gone ({error}). Restore a newer checkpoint, or use --cold-start with another state folder"
        ) from error


def offsets_pending(last: Entry, committed: Mapping[Partition, int], at_least_once: bool) -> bool:
    """Whether the outputs of the last cut may be missing, by the group's committed offsets.

    The ledger is the authority: offsets that are absent (they expire) are restored from it. Offsets that
    differ mean that somebody acted by hand: PositionLost. Only at_least_once may stop between the ledger
    record and the offsets, and then by one cut: the next one begins after the offsets of the last.
    """
    starts = {(r.topic, r.partition): r.start for r in last.record.ranges}
    pending = False
    for place, due in last.positions.items():
        found = committed.get(place, due)
        if found == due:
            continue
        if not (at_least_once and found == starts.get(place)):
            raise PositionLost(
                f"{place[0]}[{place[1]}]: the group's committed offset is {found}, the ledger's last cut "
                f"{last.cut} ends at {due}; somebody moved it. Set the group's offset back to {due}, or "
                "delete the group's offsets, and the ledger's position is used"
            )
        pending = True
    never = at_least_once and not any(place in committed for place in last.positions)
    return pending or never
