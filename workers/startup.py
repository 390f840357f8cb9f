"""How a trainer starts, up to the moment when it may read live. The order is the safety.

1. the lock on the state folder is held (the caller's)
2. topics exist, their ids are known
3. the ledger's last record: does another instance live?
4. open the sink: ends what an earlier producer left pending, and fences it; claim the job (in the notes of the
   offsets) as long as there is no commit to show for it
5. the ledger again: only now nothing can be added to it by others
6. refuse what cannot be continued: other app, config, environment, topics, offsets
7. newest good checkpoint, silent roll-forward, digests compared
8. at_least_once: publish the last cut again when its offsets were not committed
9. where a lineage begins: its ledger record, and a checkpoint before anything else; so also for a rollback that
   the last cut decided and nobody carried out
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from schemas.scores import TopicIdentity
from stream_mtl.acks import acknowledgements
from stream_mtl.checkpoint import CheckpointStore
from stream_mtl.config import Config, fold_hash
from stream_mtl.cut import Cut, CutResult
from stream_mtl.deadletters import dead_letter
from stream_mtl.environment import code_fingerprint
from stream_mtl.errors import CheckpointMissing, ForeignState, RollForwardMismatch
from stream_mtl.kafka.publication import Claim, Publication
from stream_mtl.ledger import Context, Durable, Entry, Positions, decode, encode_lineage
from stream_mtl.recovery import (
    COLD_START,
    NEW_CODE,
    NEW_ENVIRONMENT,
    TOPICS_RECREATED,
    Start,
    find_start,
    moved,
    offsets_pending,
    refuse_foreign,
    restore,
    roll_forward,
)
from stream_mtl.rollback import begun
from workers.context import begins_by_itself
from workers.instance import Instance, refuse_second
from workers.known_config import changed_keys
from workers.observer import CutFacts, Observer
from workers.ports import Model, Ports, RepublishingSink
from workers.rollback import carry_out, lineage_id, loader

_CLAIM_S = 10.0  # a third of the silence after which another instance would take the job


@dataclass(frozen=True, slots=True)
class TrainerOptions:
    until_idle: bool = False
    take_over: bool = False
    new_lineage: bool = False
    cold_start: bool = False
    accept_topic_recreation: bool = False

    def followed(self) -> TrainerOptions:
        """Without the flags that allow something once."""
        return TrainerOptions(self.until_idle)


@dataclass(frozen=True, slots=True)
class Ready:
    """The state after the last committed cut, and what goes into the next record."""

    fold: Model
    context: Context
    cluster: str
    last: Entry | None
    durable: Durable | None
    saved_hash: str  # of the ledger record whose state a checkpoint holds; "" without one
    checkpoint_due: bool  # a lineage began: nothing may be read before a checkpoint holds it


def start(
    config: Config,
    options: TrainerOptions,
    ports: Ports,
    instance: Instance,
    store: CheckpointStore,
    observer: Observer,
) -> Ready:
    """Steps 2 to 9, without the checkpoint. Raises what `stream_mtl.errors` says of each refusal."""
    observer.phase("starting")
    topics = ports.prepare()  # 2
    refuse_second(_last(ports), instance.id, ports.clock(), options.take_over, ports.claims)  # 3
    ports.sink.open()  # 4
    last = _last(ports)  # 5
    context = Context(
        app=config.app,
        lineage=last.record.lineage if last else lineage_id(),
        instance=instance.id,
        topic_ids=topics,
        config_hash=fold_hash(config),
        code=code_fingerprint(),
        environment=ports.environment,
    )
    cluster = ports.cluster()
    store.sweep()
    if last is None:
        return _first(options, ports, store, context, cluster)
    if begins_by_itself(config, last.record, context):
        options = replace(options, new_lineage=True)
    hint = "; ".join(changed_keys(Path(config.state), config)[:5])
    refuse_foreign(last.record, context, options.new_lineage, hint)  # 6
    return _Recovery(config, options, ports, store, observer, context, cluster, last).run()


def _last(ports: Ports) -> Entry | None:
    found = ports.last_record()
    return decode(found[1], found[0]) if found else None


def _first(
    options: TrainerOptions, ports: Ports, store: CheckpointStore, context: Context, cluster: str
) -> Ready:
    """An empty ledger: nothing was ever committed here."""
    known = store.list()
    if known and not options.cold_start:
        raise ForeignState(
            f"the ledger is empty, but the state folder has {known[0].name}: another broker, or the ledger "
            "topic was deleted. Check the bootstrap address, give --state a new folder, or use --cold-start"
        )
    fold = ports.build(context.lineage)
    ports.source.open({})
    return Ready(fold, context, cluster, None, None, "", False)


@dataclass(slots=True)
class _Recovery:
    """A start with a ledger that has a last record."""

    config: Config
    options: TrainerOptions
    ports: Ports
    store: CheckpointStore
    observer: Observer
    context: Context
    cluster: str
    last: Entry
    claimed_at: float = 0.0

    def run(self) -> Ready:
        from stream_mtl.kafka.topics import input_topics

        recreated = self._recreated(self.context.topic_ids)
        unread = recreated & set(input_topics(self.config))  # what was in them is gone
        pending = not unread and self._pending()
        began = self.ports.elapsed()
        self._claim(recreated)
        found = find_start(
            self.store,
            lambda offset: [decode(raw, at) for at, raw in self.ports.read_ledger(offset)],
            self.cluster,
            self.context,
            self.options.cold_start,
        )  # 7
        for reason in found.refused:
            self.observer.trouble("checkpoint_refused", why=reason)
        self.observer.phase("restoring", checkpoint=found.name, cut=self.last.cut)
        fold = self.ports.build(self.last.record.lineage)
        afresh = self._restore(fold, found)
        positions = {
            place: at for place, at in self.last.positions.items() if place[0] not in recreated
        }
        self.ports.source.open(positions)
        if not unread:
            self._roll_forward(fold, found, pending)
        seconds = self.ports.elapsed() - began
        self.observer.phase("restored", cut=self.last.cut, seconds=seconds)
        saved_hash = found.manifest.identity.ledger_hash if found.manifest else ""
        ready = Ready(
            fold=fold,
            context=self.context,
            cluster=self.cluster,
            last=self.last,
            durable=found.durable,
            saved_hash=saved_hash,
            checkpoint_due=found.lineage_began,
        )
        reason = self._reason(found, recreated)
        decision = None if recreated or found.cold else begun(self.last.record.decisions)
        if decision is not None and self.last.record.kind == "cut":
            try:
                return self._roll_back(ready, decision)
            except CheckpointMissing as error:
                if not reason:
                    raise CheckpointMissing(
                        f"{error}, or give this rollback up with --new-lineage"
                    ) from error
        return self._new_lineage(ready, reason, afresh) if reason else ready

    def _restore(self, fold: Model, found: Start) -> tuple[str, ...]:
        """The parts of the state that start afresh, where it was saved under other settings or by other code."""
        if not found.is_of_others(self.context):
            return restore(fold, found)
        afresh = restore(fold, found, lambda: self.ports.build(self.last.record.lineage))
        if afresh:
            self.observer.phase("carried_over", afresh=", ".join(afresh))
        return afresh

    def _claim(self, recreated: set[str]) -> None:
        """Say that this instance holds the job: until its first commit nothing else does. Two that start at
        the same moment end here, by Fenced, and not after a long roll-forward each. The offsets are the ledger's.
        """
        self.claimed_at = self.ports.elapsed()
        if self.ports.sink.delivery == "exactly_once" and not recreated:
            claim = Claim(self.context.instance, self.ports.clock())
            self.ports.sink.refresh(self.last.cut, self.last.positions, claim)

    def _recreated(self, topics: Mapping[str, TopicIdentity]) -> set[str]:
        """Topics that were created anew since the last record; TopicChanged unless that is accepted."""
        from stream_mtl.kafka.topics import check_identities

        before = self.last.record.topic_ids
        anew = {
            name
            for name, old in before.items()
            if name in topics and old.id and topics[name].id and topics[name].id != old.id
        }
        if anew and self.options.accept_topic_recreation:
            before = {name: old for name, old in before.items() if name not in anew}
        check_identities(before, topics)
        return anew

    def _pending(self) -> bool:
        at_least_once = self.ports.sink.delivery == "at_least_once"
        return offsets_pending(self.last, self.ports.committed_offsets(), at_least_once)

    def _roll_forward(self, fold: Model, found: Start, pending: bool) -> None:
        """Silent, but for the last cut at at_least_once when its outputs may be missing (8)."""
        total = len(found.cuts)
        self.observer.phase("rolling_forward", remaining=total, done=0)
        began = self.ports.elapsed()
        replayed = roll_forward(
            fold,
            found,
            self.ports.source.read,
            loader(self.store, self.config),
            compare=not self.options.new_lineage,
            code=self.context.code,
            failpoint=self.ports.failpoint,
        )
        try:
            for done, one in enumerate(replayed, 1):
                ended = self.ports.elapsed()
                facts = CutFacts(step_seconds=ended - began, replayed=True)
                self.observer.cut(one.result, facts)
                self.observer.phase("rolling_forward", remaining=total - done, done=done)
                if pending and one.entry.hash == self.last.hash:
                    publication = publication_of(
                        self.config, one.cut, one.result, one.entry.raw, one.entry.record.lineage
                    )
                    sink = cast(RepublishingSink, self.ports.sink)
                    sink.republish(publication, one.entry.offset)
                if self.ports.elapsed() - self.claimed_at > _CLAIM_S:
                    self._claim(set())
                began = self.ports.elapsed()
        except RollForwardMismatch:
            self.observer.trouble("digest_mismatch")
            raise

    def _reason(self, found: Start, recreated: set[str]) -> str:
        """Why a new lineage begins at this start; "" when the old one goes on."""
        if found.cold:
            return COLD_START
        if recreated:
            return TOPICS_RECREATED
        if not self.options.new_lineage:
            return ""
        return NEW_ENVIRONMENT if moved(self.last.record, self.context) else NEW_CODE

    def _roll_back(self, ready: Ready, decision: Mapping[str, Any]) -> Ready:
        """The last cut said so, and then the worker ended: what it still had to do."""
        context, last = carry_out(
            self.config, self.ports, self.store, ready.fold, self.context, self.last, decision
        )
        return replace(ready, context=context, last=last, durable=None, checkpoint_due=True)

    def _new_lineage(self, ready: Ready, reason: str, afresh: tuple[str, ...]) -> Ready:
        """Step 9: the record. It reads nothing and publishes nothing."""
        context = replace(self.context, lineage=lineage_id())
        positions = self.ports.source.positions
        now = self.ports.clock()
        facts = {"afresh": list(afresh)} if afresh else {}
        raw = encode_lineage(context, self.last, positions, now, reason, facts)
        nothing = Cut(self.last.cut, (), (), now)
        committed = self.ports.sink.commit(Publication(nothing, (), (), raw, positions))
        ready.fold.lineage = context.lineage
        last = decode(raw, committed.ledger_offset)
        return replace(ready, context=context, last=last, durable=None, checkpoint_due=True)


def publication_of(
    config: Config, cut: Cut, result: CutResult, ledger: bytes, lineage: str
) -> Publication:
    """All that becomes visible with a cut, offsets of idle partitions included."""
    letters = [
        dead_letter(reject, cut.number, config.app, config.source.rank, config.dlq)
        for reject in result.rejects
    ]
    positions: Positions = {(r.topic, r.partition): r.stop for r in cut.ranges}
    acks = acknowledgements(result.decisions, cut, lineage)
    return Publication(cut, result.outputs, letters, ledger, positions, acks)
