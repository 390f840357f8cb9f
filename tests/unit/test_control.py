"""Commands to a running worker: pause, resume, rollback; each once, each answered, whatever dies."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import pytest

from schemas.scores import Ack
from stream_mtl import recovery
from stream_mtl.acks import acknowledgements
from stream_mtl.config import Config, DeadLetters
from stream_mtl.cut import Cut
from stream_mtl.errors import CheckpointMissing, ConfigError
from stream_mtl.orders import KEPT, Orders
from stream_mtl.recovery import lineage_reason
from stream_mtl.rollback import ROLLBACK
from stream_mtl.testing import CONTROL, DieAt, Died
from tests.unit.test_recovery import PLACES, SINKS, Notes, World, holds_property_p, until_done


def world_with_past(folder: Path, delivery: str = "exactly_once", records: int = 12) -> World:
    """A worker that has run to the end of its input and left checkpoints; then more input comes."""
    world = World(folder, delivery)
    world.log.records[CONTROL] = []
    world.run()
    world.log.fill(PLACES, [b"%d" % n for n in range(records)])
    world.checkpoint_every = 1_000
    return world


def answers(world: World) -> dict[str, list[Ack]]:
    """By command id, in the order of the topic; the same bytes again count once at at_least_once."""
    found: dict[str, list[Ack]] = {}
    rows = world.log.acks
    for _, key, value in dict.fromkeys(rows) if world.delivery == "at_least_once" else rows:
        found.setdefault(key, []).append(Ack.model_validate_json(value or b""))
    return found


def event_positions(world: World) -> list[dict[tuple[str, int], int]]:
    """After every cut, of all but the control topic."""
    return [
        {place: at for place, at in entry.positions.items() if place != CONTROL}
        for entry in world.entries()
    ]


def test_a_paused_worker_reads_commands_alone_over_restarts_until_resume(tmp_path: Path) -> None:
    world = world_with_past(tmp_path)
    until = len(world.log.ledger)
    world.log.say("pause", "p1")
    for _ in range(2):  # the second start is paused from its first moment
        with pytest.raises(ConfigError, match="control resume"):
            world.run()
    paused_at = next(e.cut for e in world.entries() if e.record.decisions)
    stood = {tuple(sorted(at.items())) for at in event_positions(world)[paused_at:]}
    assert len(stood) == 1
    world.log.say("pause", "p2")
    with pytest.raises(ConfigError, match="control resume"):
        world.run()
    assert {tuple(sorted(at.items())) for at in event_positions(world)[paused_at:]} == stood
    assert "p2" in answers(world), "commands are obeyed meanwhile"
    world.log.say("resume", "r1")
    assert holds_property_p(world, world.run()) == []
    assert len(world.log.ledger) > until + 3


def test_a_pause_that_was_taken_back_already_does_not_end_a_run(tmp_path: Path) -> None:
    world = world_with_past(tmp_path)
    world.log.say("pause", "p1")
    world.log.say("resume", "r1")
    assert holds_property_p(world, world.run()) == []


class Strict(World):
    """A worker whose breaker opens at half of ten records."""

    @property
    def config(self) -> Config:
        breaker = DeadLetters(breaker_window=10, breaker_share=0.5)
        return super().config.model_copy(update={"dlq": breaker})


def test_resume_closes_the_breaker_of_a_running_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Strict(tmp_path)
    world.log.records[CONTROL] = []
    flood = [b"poison"] * 30 + [b"1"] * 12
    world.log.fill(PLACES, flood)
    with pytest.raises(ConfigError, match="records were refused"):
        world.run()
    told: list[int] = []

    def mend(self: Notes, kind: str, **facts: Any) -> None:
        if kind == "breaker":
            told.append(facts["open"])
            if facts["open"]:
                world.log.say("resume", f"r{len(told)}")

    monkeypatch.setattr(Notes, "trouble", mend)
    world.log.fill(PLACES, flood)
    assert holds_property_p(world, world.run()) == []
    assert 1 in told
    assert told[-1] == 0


def test_a_command_is_carried_out_once_and_a_refused_one_may_come_again(tmp_path: Path) -> None:
    world = World(tmp_path, checkpoint_every=1_000)
    world.log.say("pause", "p1")
    world.log.say("resume", "r1")
    world.log.say("pause", "p1")
    world.log.say("rollback", "b1")
    world.run()
    world.log.fill(PLACES, [b"1"] * 9)
    world.run()  # a second checkpoint
    world.log.say("rollback", "b1")
    world.run()
    first, again = answers(world)["p1"]
    assert (first.done, first.repeated) == (True, None)
    assert (again.done, again.repeated) == (True, first.cut)
    refused, done = answers(world)["b1"]
    assert not refused.done
    assert "no usable checkpoint" in (refused.reason or "")
    assert done.done
    assert done.checkpoint is not None
    assert done.checkpoint.cut < done.cut


def copied(world: World, number: int) -> World:
    """The same past in a folder of its own."""
    folder = world.folder.parent / f"{number}"
    shutil.copytree(world.folder, folder)
    again = copy(world)
    again.folder, again.log = folder, deepcopy(world.log)
    return again


@pytest.mark.parametrize("delivery", SINKS)
def test_kill_it_at_any_step_of_a_rollback_and_the_outcome_is_the_same(
    tmp_path: Path, delivery: str
) -> None:
    """One run for each step from the command on; the oracle is a fold that never touched a disk."""
    past = world_with_past(tmp_path / "past", delivery)
    past.log.say("rollback", "b1")
    count = DieAt()
    undisturbed = copied(past, 0)
    assert holds_property_p(undisturbed, undisturbed.run(count)) == []
    assert {"rollback.begun", "rollback.recorded"} <= set(count.names)
    for at in range(1, count.hits + 1):
        world = copied(past, at)
        summary = until_done(world, DieAt(at))
        assert holds_property_p(world, summary) == [], f"died at hit {at}: {count.names[at - 1]}"
        assert [one.done for one in answers(world)["b1"]] == [True]
        began = [e for e in world.entries() if lineage_reason(e.record) == ROLLBACK]
        assert len(began) == 1
        shutil.rmtree(world.folder)


def die_at(name: str) -> Any:
    def failpoint(here: str) -> None:
        if here == name:
            raise Died(name)

    return failpoint


def test_a_roll_forward_that_forgets_the_rollback_ends_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The naive variant folds the cuts and passes the lineage record over: the check above must see it."""
    world = world_with_past(tmp_path)
    world.log.say("rollback", "b1")
    with pytest.raises(Died):
        world.run(die_at("rollback.recorded"))
    monkeypatch.setattr(recovery, "go_back", lambda fold, decision, load: None)
    assert "state digest" in holds_property_p(world, world.run())


def test_cuts_before_a_rollback_are_compared_when_it_is_rolled_forward(tmp_path: Path) -> None:
    world = world_with_past(tmp_path)
    world.log.say("rollback", "b1")
    with pytest.raises(Died):
        world.run(die_at("rollback.recorded"))

    class Other(world.fold):  # type: ignore[name-defined, misc]
        def step(self, cut: Cut) -> Any:
            self._sums += 1e-9
            return super().step(cut)

    world.fold = Other
    with pytest.raises(recovery.RollForwardMismatch):
        world.run()


def test_a_rollback_whose_checkpoint_is_gone_is_refused_clearly_or_given_up(
    tmp_path: Path,
) -> None:
    """Decided and committed, then the process and the checkpoint are lost."""
    world = world_with_past(tmp_path)
    world.log.say("rollback", "b1")
    with pytest.raises(Died):
        world.run(die_at("rollback.begun"))
    (said,) = answers(world)["b1"]
    assert said.checkpoint is not None
    shutil.rmtree(world.folder / "checkpoints" / said.checkpoint.name)
    with pytest.raises(CheckpointMissing, match=rf"{said.checkpoint.name}(.|\n)*--new-lineage"):
        world.run()
    world.run(new_lineage=True)
    assert not [e for e in world.entries() if lineage_reason(e.record) == ROLLBACK]


def test_a_second_rollback_does_not_bring_back_what_the_first_gave_up(tmp_path: Path) -> None:
    world = world_with_past(tmp_path)
    world.log.say("rollback", "b1")
    world.run()
    world.log.say("rollback", "b2")
    world.run()
    first, second = (answers(world)[name][0].checkpoint for name in ("b1", "b2"))
    assert first is not None
    assert second is not None
    given_up = [
        i.name for i in world.store.list() if first.cut < i.cut < answers(world)["b1"][0].cut
    ]
    assert second.name not in given_up


def test_a_rollback_may_name_its_cut_or_its_checkpoint(tmp_path: Path) -> None:
    world = world_with_past(tmp_path)
    newest, older = world.store.list()[:2]
    world.log.say("rollback", "b1", checkpoint=newest.name)
    world.run()
    world.log.say("rollback", "b2", cut=older.cut)
    world.run()
    world.log.say("rollback", "b3", checkpoint="nothing")
    world.run()
    found = answers(world)
    assert found["b1"][0].checkpoint == found["b1"][0].checkpoint
    assert found["b1"][0].checkpoint is not None
    assert found["b1"][0].checkpoint.name == newest.name
    if found["b2"][0].done:  # retention may have taken it meanwhile
        assert found["b2"][0].checkpoint is not None
        assert found["b2"][0].checkpoint.cut <= older.cut
    assert "named nothing" in (found["b3"][0].reason or "")


def test_only_the_newest_ids_are_remembered_and_come_back_from_a_state() -> None:
    orders = Orders()
    for number in range(KEPT + 5):
        orders.carried_out(f"c{number}", number)
    again = Orders()
    again.restore(orders.state())
    for one in (orders, again):
        assert [one.repeated(f"c{n}") for n in (4, 5, KEPT + 4)] == [None, 5, KEPT + 4]
    assert len(again.state()["command_ids"]) == KEPT


def test_decisions_of_the_fold_itself_are_not_acknowledged() -> None:
    cut = Cut(7, (), (), 1_000)
    decisions: list[dict[str, Any]] = [
        {"kind": "publish_gate", "verdict": "promote"},
        {"kind": "pause", "command_id": "c1", "done": True},
        {"kind": "add_task", "command_id": "c2", "done": False, "reason": "no"},
    ]
    first, second = acknowledgements(decisions, cut, "l1")
    assert (first.key, second.key) == ("c1", "c2")
    assert json.loads(second.value or b"") == {
        "schema_version": 1,
        "command_id": "c2",
        "kind": "add_task",
        "done": False,
        "reason": "no",
        "cut": 7,
        "lineage": "l1",
        "published_at": 1_000,
    }
    assert Counter(acknowledgements(decisions, cut, "l1")) == Counter([first, second])
