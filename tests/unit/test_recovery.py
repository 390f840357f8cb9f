"""Kill it anywhere, start it again: the same scores once, the same state, or a clear refusal."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from schemas.scores import LedgerRecord, TopicIdentity
from stream_mtl.checkpoint import CheckpointStore
from stream_mtl.config import Checkpoint, Config, Kafka, Source
from stream_mtl.cut import Cut, CutResult
from stream_mtl.errors import (
    CheckpointMissing,
    ConfigError,
    Fenced,
    ForeignState,
    PositionLost,
    RollForwardMismatch,
    StateError,
    StorageError,
    TopicChanged,
)
from stream_mtl.failpoints import FAILPOINTS, Failpoint
from stream_mtl.kafka.publication import Claim, Committed, Publication
from stream_mtl.ledger import Entry, cut_of, decode, links, ranges_of
from stream_mtl.ledger_audit import Published, verify
from stream_mtl.recovery import NEW_ENVIRONMENT, lineage_reason
from stream_mtl.rollback import ROLLBACK
from stream_mtl.testing import (
    AtOnce,
    DieAt,
    Died,
    MemoryLog,
    MemoryPlain,
    MemorySource,
    MemoryTransactions,
    Place,
    SumFold,
)
from workers import trainer as trainers
from workers.failpoint import armed
from workers.observer import Silent
from workers.ports import Ports, Sink
from workers.startup import TrainerOptions
from workers.trainer import run_trainer

PLACES: list[Place] = [("events", 0), ("events", 1), ("items", 0)]
TOPICS = {
    "events": TopicIdentity(id="t1", partitions=2),
    "items": TopicIdentity(id="t2", partitions=1),
}
SINKS: dict[str, type[MemoryTransactions]] = {
    "exactly_once": MemoryTransactions,
    "at_least_once": MemoryPlain,
}


class OffsetsFirst(MemoryPlain):
    """The naive order: offsets and ledger record before the outputs. A crash in between loses scores."""

    delivery = "exactly_once"  # nothing is published again after a crash

    def commit(self, publication: Publication) -> Committed:
        self._log.ledger.append(publication.ledger)
        self._log.offsets.update(publication.positions)
        return self.republish(publication, len(self._log.ledger) * 2 - 2)


class Notes(Silent):
    def __init__(self) -> None:
        self.troubles: Counter[str] = Counter()
        self.phases: list[str] = []
        self.replayed = 0

    def phase(self, name: str, **facts: object) -> None:
        self.phases.append(name)

    def trouble(self, kind: str, **facts: object) -> None:
        self.troubles[kind] += 1

    def cut(self, result: CutResult, facts: Any) -> None:
        self.replayed += facts.replayed


@dataclass
class World:
    """A log, a state folder, and trainers that come and go. Time moves a second a look."""

    folder: Path
    delivery: str = "exactly_once"
    sink: type[MemoryTransactions] | None = None
    checkpoint_every: int = 5  # looks at the clock, about
    log: MemoryLog = field(default_factory=MemoryLog)
    now_s: int = 1_000_000
    starts: int = 0
    topics: Mapping[str, TopicIdentity] = field(default_factory=lambda: dict(TOPICS))
    environment: dict[str, str] = field(default_factory=lambda: {"torch": "1"})
    notes: Notes = field(default_factory=Notes)
    fold: type[SumFold] = SumFold
    cluster: str = "c1"
    claims: list[Claim] = field(default_factory=list)

    def __post_init__(self) -> None:
        values = [b"poison" if n % 11 == 5 else b"%d" % n for n in range(45)]
        self.log.fill(PLACES, values)

    @property
    def config(self) -> Config:
        return Config(
            state=str(self.folder),
            kafka=Kafka(delivery=self.delivery),  # type: ignore[arg-type]
            checkpoint=Checkpoint(interval_s=self.checkpoint_every, keep=2, keep_hours=0),
        )

    @property
    def store(self) -> CheckpointStore:
        return CheckpointStore(self.folder / "checkpoints")

    def source(self) -> MemorySource:
        return MemorySource(self.log, self.starts, clock=lambda: self.now_s * 1_000)

    def prepare(self) -> Mapping[str, TopicIdentity]:
        return self.topics

    def seconds(self) -> int:
        self.now_s += 1
        return self.now_s

    def run(
        self,
        failpoint: Failpoint = lambda name: None,
        config: Config | None = None,
        **options: bool,
    ) -> dict[str, Any]:
        self.starts += 1
        self.notes = Notes()

        def connect(config: Config, incarnation: str, stop: Any, armed: Failpoint) -> Ports:
            sink: Sink = (self.sink or SINKS[self.delivery])(self.log, failpoint)
            return Ports(
                source=self.source(),
                sink=sink,
                prepare=self.prepare,
                cluster=lambda: self.cluster,
                last_record=self.log.last_record,
                read_ledger=self.log.read_ledger,
                committed_offsets=lambda: self.log.offsets,
                claims=lambda: self.claims,
                build=self.fold,
                environment=self.environment,
                failpoint=failpoint,
                clock=lambda: self.seconds() * 1_000,
                elapsed=lambda: float(self.seconds()),
                spawn=AtOnce,
            )

        chosen = TrainerOptions(**{"until_idle": True, **options})
        stores = trainers.CheckpointStore

        def store(*arguments: Any) -> CheckpointStore:
            return stores(*arguments[:3], failpoint)

        trainers.CheckpointStore = store  # type: ignore[misc, assignment]  # the failpoint of this run
        try:
            return run_trainer(
                config or self.config, chosen, threading.Event(), self.notes, connect
            )
        finally:
            trainers.CheckpointStore = stores  # type: ignore[misc]

    def entries(self) -> list[Entry]:
        return links(decode(raw, at) for at, raw in self.log.read_ledger(None))[0]

    def refold(self) -> tuple[SumFold, list[CutResult]]:
        """The fault-free fold of the same cuts, from the empty state; rollbacks from its own past, not a disk."""
        fold, results, states = self.fold("?"), [], {}
        for entry in self.entries():
            fold.lineage = entry.record.lineage
            if entry.record.kind == "cut":
                results.append(fold.step(self.cut(entry.record)))
            elif lineage_reason(entry.record) == ROLLBACK:
                to = int(entry.record.decisions[0]["checkpoint_cut"])
                fold.roll_back(states[to], to)
            states[entry.cut] = deepcopy(fold.state())
        return fold, results

    def cut(self, record: LedgerRecord) -> Cut:
        ranges = ranges_of(record)
        source = MemorySource(self.log, 0)
        source.open({})
        return cut_of(record, tuple(source.read(ranges)))


def holds_property_p(world: World, summary: Mapping[str, Any]) -> list[str]:
    """What is wrong, by what a reader finds after the run: scores, offsets, dead letters, digest."""
    wrong = []
    fold, results = world.refold()
    due = Counter((r.number, o.key, o.value) for r in results for o in r.outputs)
    found = Counter(world.log.scores)
    if world.delivery == "at_least_once":  # again, but the same bytes
        found = Counter(found.keys())
    if due != found:
        wrong.append(f"{(due - found).total()} scores missing, {(found - due).total()} too many")
    _, chain = links(decode(raw, at) for at, raw in world.log.read_ledger(None))
    if chain.gaps or chain.overlaps or chain.repeats:
        wrong.append(f"ledger: {chain.faults}")
    if world.entries()[-1].positions != {p: len(r) for p, r in world.log.records.items()}:
        wrong.append("not all input was read")
    poison = Counter(
        (place, r.offset)
        for place, own in world.log.records.items()
        for r in own
        if r.value == b"poison"
    )
    letters = Counter(world.log.dead_letters)
    if poison != (letters if world.delivery == "exactly_once" else Counter(letters.keys())):
        wrong.append("dead letters")
    if summary["state_digest"] != fold.state_digest():
        wrong.append("state digest")
    return wrong


def until_done(world: World, failpoint: Failpoint) -> dict[str, Any]:
    """Start again after each death, as a supervisor does."""
    try:
        return world.run(failpoint)
    except Died:
        return world.run()


@pytest.mark.parametrize("delivery", SINKS)
def test_kill_it_at_any_step_and_the_outcome_is_that_of_an_undisturbed_run(
    tmp_path: Path, delivery: str
) -> None:
    """One run for each step of a whole run: it dies there and starts again."""
    count = DieAt()
    undisturbed = World(tmp_path / "whole", delivery)
    assert holds_property_p(undisturbed, undisturbed.run(count)) == []
    assert {"commit.begin", "checkpoint.fsynced", "checkpoint.deleting"} <= set(count.names)
    assert count.hits > 60
    for at in range(1, count.hits + 1):
        world = World(tmp_path / f"{at}", delivery)
        summary = until_done(world, DieAt(at))
        assert holds_property_p(world, summary) == [], f"died at hit {at}: {count.names[at - 1]}"
        shutil.rmtree(world.folder)


@pytest.mark.parametrize("delivery", SINKS)
def test_kill_it_again_and_again(tmp_path: Path, delivery: str) -> None:
    """Deaths in the roll-forward and in the start itself, every few steps, until it gets through."""
    for step in (5, 9, 17):
        world = World(tmp_path / f"{step}", delivery, checkpoint_every=40)
        deaths = 0
        while True:
            try:
                summary = world.run(DieAt(step + deaths))
                break
            except Died:
                deaths += 1
        assert deaths > 1
        assert holds_property_p(world, summary) == []


def test_the_naive_order_loses_scores(tmp_path: Path) -> None:
    """Advancing before the outputs are out: the check above must see it."""
    count = DieAt()
    World(tmp_path / "whole", sink=OffsetsFirst, checkpoint_every=1_000).run(count)
    wrong = []
    for at in range(1, count.hits + 1):
        world = World(tmp_path / f"{at}", sink=OffsetsFirst, checkpoint_every=1_000)
        wrong += holds_property_p(world, until_done(world, DieAt(at)))
        shutil.rmtree(world.folder)
    assert any("missing" in fault for fault in wrong)


def test_a_clean_stop_leaves_a_checkpoint_of_the_last_cut_and_the_next_start_folds_nothing(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    summary = world.run()
    newest = world.store.list()[0]
    assert newest.cut == summary["last_cut"] == world.entries()[-1].cut
    assert world.store.verify(newest.name).state_digest == summary["state_digest"]
    again = world.run()
    assert again["state_digest"] == summary["state_digest"]
    assert world.notes.replayed == 0
    assert len(world.log.ledger) == summary["last_cut"] + 1


def test_more_input_is_taken_up_where_the_last_run_ended(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run()
    world.log.fill(PLACES, [b"7"] * 20)
    assert holds_property_p(world, world.run()) == []


def test_a_stop_finishes_the_cut_and_checkpoints(tmp_path: Path) -> None:
    """SIGTERM in the middle of a step: that cut is committed, no other is begun."""
    world, stop = World(tmp_path), threading.Event()

    def stop_at_third(name: str) -> None:
        count[name] += 1
        if count["step.done"] == 3:
            stop.set()

    count: Counter[str] = Counter()
    patched = threading.Event
    threading.Event = lambda: stop  # type: ignore[misc, assignment]
    try:
        summary = world.run(stop_at_third, until_idle=False)
    finally:
        threading.Event = patched  # type: ignore[misc]
    assert summary["last_cut"] == 2
    assert world.store.list()[0].cut == 2


def damage_newest(world: World, how_many: int = 1) -> None:
    for info in world.store.list()[:how_many]:
        raw = bytearray((info.path / "state.json").read_bytes())
        raw[0] ^= 1
        (info.path / "state.json").write_bytes(raw)


def test_a_damaged_checkpoint_means_an_older_one_and_a_longer_roll_forward(tmp_path: Path) -> None:
    world = World(tmp_path)
    before = world.run()
    damage_newest(world)
    after = world.run()
    assert after["state_digest"] == before["state_digest"]
    assert world.notes.replayed > 0
    assert world.notes.troubles["checkpoint_refused"] == 1


def test_roll_forward_is_silent(tmp_path: Path) -> None:
    """Not one record is produced and nothing is committed."""
    world = World(tmp_path)
    world.run()
    damage_newest(world)
    visible = (list(world.log.ledger), list(world.log.scores), list(world.log.dead_letters))
    world.run()
    assert world.notes.replayed > 0
    assert visible == (world.log.ledger, world.log.scores, world.log.dead_letters)


def test_without_any_checkpoint_the_model_is_folded_from_the_beginning(tmp_path: Path) -> None:
    world = World(tmp_path)
    before = world.run()
    shutil.rmtree(tmp_path / "checkpoints")
    assert world.run()["state_digest"] == before["state_digest"]
    assert world.notes.replayed == before["last_cut"] + 1


def test_without_checkpoint_and_input_it_refuses_and_cold_start_is_the_way_out(
    tmp_path: Path,
) -> None:
    """A cold start: an empty model, the old positions, outputs still once; and that survives a crash."""
    world = World(tmp_path)
    before = world.run()
    shutil.rmtree(tmp_path / "checkpoints")
    world.log.first = {("events", 0): 5}
    with pytest.raises(CheckpointMissing) as refusal:
        world.run()
    assert refusal.value.exit_code == 65
    assert "--cold-start" in str(refusal.value)
    world.log.fill(PLACES, [b"7"] * 9)
    with pytest.raises(Died):
        world.run(DieAt(14), cold_start=True)
    summary = world.run()
    assert summary["lineage"] != before["lineage"]
    assert summary["last_cut"] > before["last_cut"]
    assert summary["events_consumed"] == 9
    assert world.entries()[before["last_cut"] + 1].record.kind == "lineage"
    _, chain = links(world.entries())
    assert (chain.gaps, chain.overlaps) == (0, 0)


class Drifting(SumFold):
    """New code that folds differently."""

    def step(self, cut: Cut) -> CutResult:
        self._sums += 1e-9
        return super().step(cut)


def test_another_digest_in_the_roll_forward_stops_with_the_number_of_the_cut(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.run()
    damage_newest(world)
    second = world.store.list()[1].cut
    world.fold = Drifting
    with pytest.raises(RollForwardMismatch) as mismatch:
        world.run()
    assert f"cut {second + 1}," in str(mismatch.value)
    assert mismatch.value.exit_code == 65
    assert world.notes.troubles["digest_mismatch"] == 1


def test_a_new_lineage_carries_the_state_over_and_survives_a_crash_at_its_start(
    tmp_path: Path,
) -> None:
    """Whatever step it dies at: the old cut numbers go on, nothing is read twice."""
    count = DieAt()

    def prepared(folder: Path) -> World:
        world = World(folder)
        world.run()
        damage_newest(world)
        world.fold = Drifting
        world.environment = {"torch": "2"}
        world.log.fill(PLACES, [b"7"] * 9)
        return world

    world = prepared(tmp_path / "whole")
    world.run(count, new_lineage=True)
    for at in range(1, count.hits + 1):
        world = prepared(tmp_path / f"{at}")
        old = world.entries()[-1]
        with pytest.raises(Died):
            world.run(DieAt(at), new_lineage=True)
        began = world.entries()[-1].record.lineage != old.record.lineage
        summary = world.run(new_lineage=not began)
        _, chain = links(world.entries())
        assert (chain.gaps, chain.overlaps) == (0, 0)
        assert summary["lineage"] != old.record.lineage
        assert summary["events_consumed"] == 54
        scores = Counter((cut, key) for cut, key, _ in world.log.scores)
        assert max(scores.values()) == 1
        again = world.run()
        assert again["state_digest"] == summary["state_digest"]
        shutil.rmtree(world.folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"environment": {"torch": "2"}}, "environment torch is '2' here, '1' there"),
        ({"seed": 5}, "seed was 0, is 5"),
    ],
    ids=["environment", "config"],
)
def test_what_would_change_digests_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    world = World(tmp_path)
    world.run()
    config = world.config
    if "environment" in change:
        world.environment = change["environment"]
    else:
        config = Config(**{**config.model_dump(), **change})
    with pytest.raises(ForeignState) as refusal:
        world.run(config=config)
    assert named in str(refusal.value)
    assert "--new-lineage" in str(refusal.value)
    world.run(config=config, new_lineage=True)
    world.run(config=config)


def test_a_shop_may_let_its_worker_move_between_kinds_of_machines(tmp_path: Path) -> None:
    """The state goes along and the ledger says why; other differences than the machine are still refused."""
    world = World(tmp_path)
    world.run()
    old = world.entries()[-1]
    world.environment = {"torch": "1", "arithmetic": "a", "processor": "one"}
    world.run()
    assert world.entries()[-1].record.lineage == old.record.lineage
    world.log.fill(PLACES, [b"3"] * 9)
    world.run()
    world.environment = {"torch": "1", "arithmetic": "b", "processor": "another"}
    with pytest.raises(ForeignState, match='other_environment = "new_lineage"'):
        world.run()
    moving = world.config.model_copy(update={"other_environment": "new_lineage"})
    with pytest.raises(ForeignState, match="seed was 0, is 5"):
        world.run(config=moving.model_copy(update={"seed": 5}))
    before = world.entries()[-1]
    world.log.fill(PLACES, [b"7"] * 9)
    summary = world.run(config=moving)
    assert summary["events_consumed"] == 63
    began = [entry for entry in world.entries() if entry.record.kind == "lineage"]
    assert [lineage_reason(entry.record) for entry in began] == [NEW_ENVIRONMENT]
    assert began[0].record.lineage != before.record.lineage
    _, chain = links(world.entries())
    assert (chain.gaps, chain.overlaps) == (0, 0)
    assert world.run(config=moving)["state_digest"] == summary["state_digest"]
    assert len([entry for entry in world.entries() if entry.record.kind == "lineage"]) == 1


def test_a_runtime_key_may_change_freely(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run()
    world.checkpoint_every = 99
    world.run()


def test_offsets_that_somebody_moved_are_refused_and_expired_ones_are_restored(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.run()
    whole = dict(world.log.offsets)
    world.log.offsets[PLACES[0]] -= 1
    with pytest.raises(PositionLost) as refusal:
        world.run()
    assert refusal.value.exit_code == 78
    world.log.offsets.clear()
    world.log.fill(PLACES, [b"7"] * 9)
    assert holds_property_p(world, world.run()) == []
    assert world.log.offsets != whole


def test_a_recreated_topic_is_refused_until_it_is_accepted(tmp_path: Path) -> None:
    """Accepted: it is read from its start, in a new lineage, and the others go on where they were."""
    world = World(tmp_path)
    before = world.run()
    world.topics = {**TOPICS, "items": TopicIdentity(id="t9", partitions=1)}
    world.log.records[("items", 0)] = []
    world.log.fill([("items", 0)], [b"1"] * 4)
    world.log.offsets = {p: at for p, at in world.log.offsets.items() if p[0] != "items"}
    with pytest.raises(TopicChanged) as refusal:
        world.run()
    assert refusal.value.exit_code == 78
    summary = world.run(accept_topic_recreation=True)
    assert summary["events_consumed"] == before["events_consumed"] + 4
    assert summary["lineage"] != before["lineage"]
    again = world.run()
    assert again["state_digest"] == summary["state_digest"]


@pytest.mark.parametrize("what", ["cluster", "app"])
def test_the_state_folder_of_another_job_is_refused(tmp_path: Path, what: str) -> None:
    world = World(tmp_path)
    world.run()
    config = world.config
    if what == "cluster":
        world.cluster = "c2"
    else:
        config = config.model_copy(update={"app": "other"})
    with pytest.raises(ForeignState):
        world.run(config=config, new_lineage=True)


def test_an_empty_ledger_beside_old_checkpoints_is_refused(tmp_path: Path) -> None:
    """Another broker by mistake, or a deleted ledger: a fresh model must be wanted."""
    world = World(tmp_path)
    world.run()
    world.log.ledger.clear()
    world.log.offsets.clear()
    with pytest.raises(ForeignState):
        world.run()
    world.run(cold_start=True)


def test_a_checkpoint_that_the_ledger_does_not_know_is_not_used(tmp_path: Path) -> None:
    """Saved of a cut that the ledger holds with another content: another history."""
    world, other = World(tmp_path / "a"), World(tmp_path / "b")
    world.run()
    other.log.records = {
        p: [replace(r, value=b"3") for r in own] for p, own in other.log.records.items()
    }
    other.run()
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    shutil.copytree(tmp_path / "b" / "checkpoints", tmp_path / "a" / "checkpoints")
    summary = world.run()
    assert world.notes.troubles["checkpoint_refused"] > 1
    assert holds_property_p(world, summary) == []


def test_a_state_that_does_not_come_back_whole_is_refused(tmp_path: Path) -> None:
    class Forgetful(SumFold):
        def restore(self, state: Mapping[str, Any]) -> None:
            super().restore({**state, "events": 0})

    world = World(tmp_path)
    world.run()
    world.fold = Forgetful
    with pytest.raises(StateError):
        world.run()


def test_a_second_instance_is_refused_while_the_first_commits(tmp_path: Path) -> None:
    world = World(tmp_path / "a")
    world.run()
    world.folder = tmp_path / "b"
    world.now_s = 1_000_000  # the last commit is not long ago
    with pytest.raises(Fenced) as refusal:
        world.run()
    assert refusal.value.exit_code == 76
    assert world.notes.troubles["fenced"] == 1
    world.run(take_over=True)


def test_a_job_is_claimed_as_long_as_it_is_restored(tmp_path: Path) -> None:
    """Before the first cut is folded again, and every ten seconds of a long roll-forward (a look takes one)."""
    claims: list[tuple[Claim, int]] = []

    class Claiming(MemoryTransactions):
        def refresh(
            self, cut_number: int, positions: Mapping[Place, int], claim: Claim | None = None
        ) -> None:
            super().refresh(cut_number, positions, claim)
            if claim is not None:
                claims.append((claim, world.notes.replayed))

    world = World(tmp_path, sink=Claiming, checkpoint_every=1_000)
    world.log.fill(PLACES, [b"%d" % n for n in range(100)])
    world.run()
    shutil.rmtree(world.folder / "checkpoints")
    world.run()
    assert world.notes.replayed > 12
    assert claims[0][1] == 0
    assert len(claims) >= 3
    assert {claim.instance for claim, _ in claims} == {world.entries()[-1].record.instance}


def test_a_flood_of_rejects_stops_the_reading(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.log.records = {}
    world.log.fill(PLACES, [b"poison"] * 1_500)
    with pytest.raises(ConfigError) as refusal:
        world.run()
    assert refusal.value.exit_code == 78
    assert world.notes.troubles["breaker"] == 1
    assert len(world.log.dead_letters) < 300


def test_a_shutdown_that_cannot_checkpoint_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commits stand; exit 74 tells the operator that the next start will be long."""
    monkeypatch.setattr(CheckpointStore, "free_bytes", lambda self: 0)
    world = World(tmp_path)
    with pytest.raises(StorageError) as failure:
        world.run()
    assert failure.value.exit_code == 74
    monkeypatch.undo()
    assert holds_property_p(world, world.run()) == []


def test_the_audit_of_a_run_with_crashes_is_clean_and_sees_a_lost_score(tmp_path: Path) -> None:
    """`ledger verify` over what is in the log: refolds every cut and compares each score."""
    world = World(tmp_path)
    until_done(world, DieAt(50))

    class Refold:
        def __init__(self) -> None:
            self._fold = SumFold("")

        def step(self, record: LedgerRecord) -> CutResult:
            self._fold.lineage = record.lineage
            return self._fold.step(world.cut(record))

        def state_digest(self) -> str:
            return self._fold.state_digest()

    def published() -> Published:
        found = Published()
        for cut, key, value in world.log.scores:
            found.add(key, value, cut)
        return found

    report = verify(world.entries(), Refold(), published())
    assert report.clean, report.faults
    assert any(entry.record.state_digest for entry in world.entries())
    world.log.scores.pop()
    assert verify(world.entries(), Refold(), published()).scores_missing == 1


def test_an_unknown_failpoint_is_a_mistake_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        armed("commit.begun")
    with pytest.raises(ConfigError):
        armed("commit.begin:x")
    for setting in ("commit.begin:1:2", "commit.begin:stop:1", "commit.begin:freeze"):
        with pytest.raises(ConfigError):
            armed(setting)
    armed("commit.begin:2")("commit.begin")  # the first hit lives
    armed("commit.begin:2:stop")("commit.begin")
    armed("")("commit.begin")


def test_every_failpoint_of_the_list_is_reached(tmp_path: Path) -> None:
    """A name that nothing calls would test nothing."""
    reached: set[str] = set()
    for delivery in SINKS:
        world, seen = World(tmp_path / delivery, delivery), DieAt()
        world.run(seen)
        world.log.say("rollback", "r1")
        world.run(seen)
        damage_newest(world, 2)  # of one cut: before the rollback, and after it
        world.run(seen)
        reached |= set(seen.names)
    assert reached == set(FAILPOINTS)


def test_a_gap_that_was_skipped_by_policy_does_not_break_the_next_start(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.run()
    assert Source().on_gap == "fail"
    for place in PLACES:  # three offsets that nobody reads
        world.log.fill([place], [b"1"] * 3)
    entry = world.entries()[-1]
    skipped = {place: at + 3 for place, at in entry.positions.items()}
    opened = MemorySource.open
    world.log.fill(PLACES, [b"7"] * 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemorySource, "open", lambda self, at: opened(self, skipped))
        world.run()
    world.run()
    _, chain = links(world.entries())
    assert (chain.gaps, chain.broken, chain.overlaps) == (3, 0, 0)
