"""A rollback as the worker carries it out: which checkpoint, and the lineage that begins there.

1. before the step: a checkpoint is chosen, read whole and compared with the model; the fold decides with that
2. the cut is committed: its ledger record says what will be done
3. the fold goes back, in memory, and the lineage record is committed: every roll-forward goes back at that place
4. a checkpoint is written before anything else is read

A start that finds 2 without 3, or 3 without 4, does what is missing.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stream_mtl.checkpoint import CheckpointInfo, CheckpointStore
from stream_mtl.config import Config
from stream_mtl.cut import Cut, Record, RollbackTarget
from stream_mtl.errors import CheckpointCorrupt, StateError
from stream_mtl.events import Command
from stream_mtl.kafka.publication import Publication
from stream_mtl.ledger import Context, Entry, decode, encode_lineage
from stream_mtl.recovery import Candidates, LoadState, go_back
from stream_mtl.rollback import CHALLENGERS, PROMOTE, ROLLBACK
from stream_mtl.serde import decode_all
from stream_mtl.state import State
from workers.ports import Model, Ports


def lineage_id() -> str:
    return secrets.token_hex(4)


@dataclass(frozen=True, slots=True)
class Aim:
    """Finds the checkpoint of every rollback in a cut (1)."""

    config: Config
    store: CheckpointStore
    cluster: str

    def at(self, cut: Cut, fold: Model) -> Cut:
        """The cut with the targets of its rollbacks; the same cut where it holds none."""
        control = self.config.topics.control
        if all(one.start == one.stop for one in cut.ranges if one.topic == control):
            return cut
        commands = [
            one
            for one in self._commands(cut.records)
            if one.kind == ROLLBACK or (one.kind == PROMOTE and dict(one.arguments).get("lineage"))
        ]
        if not commands:
            return cut
        targets: dict[str, RollbackTarget] = {}
        for command in commands:
            aim = self._target if command.kind == ROLLBACK else self._challenger
            targets.setdefault(command.command_id, aim(command, fold))
        return replace(cut, targets=targets)

    def _commands(self, records: Sequence[Record]) -> Sequence[Command]:
        topics = self.config.topics
        said = [record for record in records if record.topic == topics.control]
        return decode_all(said, self.config.source, topics).commands if said else ()

    def _target(self, command: Command, fold: Model) -> RollbackTarget:
        given = dict(command.arguments)
        name, cut = given.get("checkpoint"), given.get("cut")
        known = self.store.list()
        if name is not None:
            found, wanted = [i for i in known if i.name == name], f"named {name}"
        elif cut is not None:
            found, wanted = [i for i in known if i.cut <= int(str(cut))], f"at or before cut {cut}"
        else:
            lasting = [i for i in known if not _discarded(i, fold.orders.discarded)]
            found, wanted = (
                lasting[1:],
                "before the newest; `cut` or `checkpoint` names another one",
            )
        refused = ""
        for info in found:
            try:
                return self._fitting(info, fold)
            except StateError as error:
                refused = refused or f"; {info.name}: {error}"
        return RollbackTarget("", 0, "", (), f"there is no usable checkpoint {wanted}{refused}")

    def _challenger(self, command: Command, fold: Model) -> RollbackTarget:
        """The newest checkpoint of another lineage."""
        lineage = str(dict(command.arguments)["lineage"])
        refused = f"there is no challenger {lineage!r}; `replay --from-scratch` makes one"
        store = challengers(self.config)
        for info in store.list() if store is not None else []:
            try:
                if store is not None and store.manifest(info.name).identity.lineage == lineage:
                    target = self._fitting(info, fold, store)
                    return replace(target, name=f"{CHALLENGERS}/{info.name}")
            except StateError as error:
                refused = f"challenger {lineage!r} cannot be put in place: {error}"
        return RollbackTarget("", 0, "", (), refused)

    def _fitting(
        self, info: CheckpointInfo, fold: Model, store: CheckpointStore | None = None
    ) -> RollbackTarget:
        state, manifest = (store or self.store).load(info.name)
        identity = manifest.identity
        if (identity.app, identity.cluster) != (self.config.app, self.cluster):
            raise CheckpointCorrupt("it is of another app or cluster")
        afresh = tuple(fold.fits(state))
        return RollbackTarget(info.name, info.cut, manifest.state_digest, afresh)


def _discarded(info: CheckpointInfo, rollbacks: Sequence[Sequence[int]]) -> bool:
    """Whether an earlier rollback gave this state up: going back to it unasked would bring it in again."""
    return any(to < info.cut < at for to, at in rollbacks)


def challengers(config: Config) -> CheckpointStore | None:
    """The checkpoints of other lineages, beside the worker's own; None where there are none."""
    folder = Path(config.state) / CHALLENGERS
    return CheckpointStore(folder) if folder.is_dir() else None


def loader(store: Candidates, config: Config) -> LoadState:
    """The state of a checkpoint and its digest, by name; names of challengers say so."""

    def load(name: str) -> tuple[State, str]:
        folder, _, challenger = name.rpartition("/")
        others = challengers(config)
        if folder == CHALLENGERS and others is not None:
            state, manifest = others.load(challenger)
        else:
            state, manifest = store.load(name)
        return state, manifest.state_digest

    return load


def carry_out(
    config: Config,
    ports: Ports,
    store: CheckpointStore,
    fold: Model,
    context: Context,
    last: Entry,
    decision: Mapping[str, Any],
) -> tuple[Context, Entry]:
    """Step 3; the context and record of the new lineage.

    Raises CheckpointMissing when the checkpoint has gone since it was chosen: then nothing was written.
    """
    ports.failpoint("rollback.begun")
    go_back(fold, decision, loader(store, config))
    context = replace(context, lineage=lineage_id())
    positions, now = ports.source.positions, ports.clock()
    facts = {key: value for key, value in decision.items() if key not in ("kind", "done")}
    raw = encode_lineage(context, last, positions, now, ROLLBACK, facts)
    nothing = Cut(last.cut, (), (), now)
    committed = ports.sink.commit(Publication(nothing, (), (), raw, positions))
    fold.lineage = context.lineage
    ports.failpoint("rollback.recorded")
    return context, decode(raw, committed.ledger_offset)
