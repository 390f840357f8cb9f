"""A broker that is away and comes back: the same process goes on, and does nothing twice that was allowed once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import workers.trainer as trainers
from schemas.scores import TopicIdentity
from stream_mtl.config import Config
from stream_mtl.errors import BrokerUnavailable, TopicMissing
from stream_mtl.failpoints import Failpoint
from stream_mtl.metrics import Metrics
from stream_mtl.testing import MemorySource
from tests.unit.test_recovery import World, holds_property_p
from workers.watch import Health, Watch


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The world has its own clock."""
    monkeypatch.setattr(trainers, "_RETRY_S", 0.0)


@dataclass
class JustBack(World):
    """Its broker does not know its topics at some of the starts in this process."""

    missing: set[int] = field(default_factory=set)
    prepared: int = 0

    def prepare(self) -> Mapping[str, TopicIdentity]:
        self.prepared += 1
        if self.prepared in self.missing:
            raise TopicMissing("missing at broker:9092: shop.events; create them")
        return self.topics


def away_at(cut: int) -> Failpoint:
    """The broker goes away when the worker would take its cut of that number."""
    cuts = 0

    def failpoint(name: str) -> None:
        nonlocal cuts
        cuts += name == "cut.freezing"
        if name == "cut.freezing" and cuts == cut:
            raise BrokerUnavailable("nobody answers")

    return failpoint


def test_topics_that_a_broker_does_not_know_yet_end_no_worker(tmp_path: Path) -> None:
    """They were there before the outage, so they will be again; the configuration is as right as it was."""
    world = JustBack(tmp_path, missing={2, 3})
    summary = world.run(away_at(4))
    assert world.prepared == 4
    assert holds_property_p(world, summary) == []


def test_topics_that_were_never_there_end_it_at_once(tmp_path: Path) -> None:
    with pytest.raises(TopicMissing, match="create them"):
        JustBack(tmp_path, missing={1}).run()


def test_topics_that_stay_away_end_it_after_a_minute(tmp_path: Path) -> None:
    """Somebody deleted them."""
    with pytest.raises(TopicMissing, match="create them"):
        JustBack(tmp_path, missing=set(range(2, 1_000))).run(away_at(4), until_idle=False)


def test_an_outage_late_in_a_long_run_is_waited_for_too(tmp_path: Path) -> None:
    """The patience of `--until-idle` is for one outage, however long the run had lasted before."""
    world, began = World(tmp_path), 0
    fails = away_at(12)

    def failpoint(name: str) -> None:
        nonlocal began
        began = began or world.now_s
        if name == "cut.freezing" and world.now_s - began < 2 * trainers._PATIENCE_S:
            world.now_s += 20
        fails(name)

    summary = world.run(failpoint)
    assert world.now_s - began > 2 * trainers._PATIENCE_S
    assert holds_property_p(world, summary) == []


def test_a_flag_that_allows_something_once_does_so_once(tmp_path: Path) -> None:
    """Given once, `--new-lineage` began another lineage after every outage."""
    world = World(tmp_path)
    world.run()
    world.run(away_at(1), new_lineage=True)
    assert len({entry.record.lineage for entry in world.entries()}) == 2


class Deaf(MemorySource):
    """Nothing comes, and the broker does not answer."""

    def prove(self) -> None:
        raise BrokerUnavailable("nobody answers")

    def next_cut(self, *arguments: object, **more: object) -> None:
        return None

    @property
    def at_end(self) -> bool:
        return False


class CutOff(World):
    """Its first client bears a password that was changed meanwhile."""

    clients = 0

    def source(self) -> MemorySource:
        self.clients += 1
        return Deaf(self.log, 1) if self.clients == 1 else super().source()


def test_a_reader_that_is_cut_off_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It waits in silence, as a shop at night does: nothing but the broker can tell the two apart."""
    world = CutOff(tmp_path)
    summary = world.run()
    assert world.clients == 2
    assert world.notes.troubles["broker"] > 1
    assert "nothing comes: nobody answers" in caplog.messages
    assert holds_property_p(world, summary) == []


def test_a_worker_whose_broker_does_not_answer_is_not_ready() -> None:
    """And is again with the first answer; it is alive all the while, so that no probe restarts the fleet."""
    health = Health(clock=lambda: 0.0, phase="running", partitions=3)
    watch = Watch(Metrics(Config()), health)
    watch.trouble("broker", away=1)
    assert health.unready() == ["the broker does not answer"]
    assert health.ailments() == []
    watch.trouble("broker", away=0)
    assert health.unready() == []
    watch.trouble("broker", away=1)
    watch.phase("running", partitions="shop.events-0")
    assert health.unready() == []
