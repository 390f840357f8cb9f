"""A record that kills the worker is found and put aside; kills from outside put nothing aside."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_mtl.cut import Cut, CutResult
from stream_mtl.errors import StorageError
from stream_mtl.ledger import quarantined_in
from stream_mtl.testing import DieAt, Died, SumFold
from tests.unit.test_recovery import PLACES, World, holds_property_p
from workers.attempts import Attempts, AttemptsFile, Trial
from workers.isolation import DEATHS, Isolation

POISON = b"deadly"


class Deadly(SumFold):
    """Dies of the poison unless it is told not to look."""

    def step(self, cut: Cut) -> CutResult:
        for record in cut.records:
            place = (record.topic, record.partition, record.offset)
            if record.value == POISON and place not in cut.quarantined:
                raise Died("of a record")
        return super().step(cut)


def poisoned(folder: Path, *places: int) -> World:
    """A log with poison at these running numbers."""
    world = World(folder, fold=Deadly)
    world.log.records.clear()
    world.log.fill(PLACES, [POISON if n in places else b"%d" % n for n in range(60)])
    return world


def supervised(world: World, restarts: int, kill: Callable[[str], None] | None = None) -> int:
    """Start it again and again, as a supervisor does; how often it died before it got through."""
    for deaths in range(restarts):
        try:
            world.run(kill or (lambda name: None))
            return deaths
        except Died:
            continue
    pytest.fail(f"no progress in {restarts} restarts, at cut {len(world.log.ledger)}")


def quarantined(world: World) -> set[tuple[str, int, int]]:
    return {one for entry in world.entries() for one in quarantined_in(entry.record)}


def deadly_places(world: World) -> set[tuple[str, int, int]]:
    own = [r for records in world.log.records.values() for r in records]
    return {(r.topic, r.partition, r.offset) for r in own if r.value == POISON}


@pytest.mark.parametrize("at", [0, 17, 59])
def test_the_record_that_kills_is_quarantined_and_all_others_are_learned(
    tmp_path: Path, at: int
) -> None:
    """One dead letter for it; every other record is folded, and a start from nothing obeys the ledger."""
    world = poisoned(tmp_path, at)
    deaths = supervised(world, 40)
    assert deaths > DEATHS
    assert quarantined(world) == deadly_places(world)
    assert [(*place, offset) for place, offset in world.log.dead_letters] == list(
        deadly_places(world)
    )
    assert world.entries()[-1].positions == {p: len(r) for p, r in world.log.records.items()}
    before = world.refold()[0].state_digest()
    shutil.rmtree(world.folder / "checkpoints")
    again = world.run()  # rolls forward over the poison without dying of it
    assert again["state_digest"] == before
    assert len(world.log.dead_letters) == 1


def test_without_the_isolation_the_worker_dies_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The naive worker takes the same records at every start."""
    monkeypatch.setattr(Isolation, "arrive", lambda self: None)
    world = poisoned(tmp_path, 17)
    topic, partition, offset = next(iter(deadly_places(world)))
    for _ in range(40):
        with pytest.raises(Died):
            world.run()
    # cuts before the poison come through by the luck of their borders; nothing behind it ever does
    assert world.entries()[-1].positions[topic, partition] <= offset
    assert not world.log.dead_letters


def test_two_poisons_are_two_quarantines(tmp_path: Path) -> None:
    world = poisoned(tmp_path, 20, 21)
    supervised(world, 80)
    assert quarantined(world) == deadly_places(world)
    assert len(world.log.dead_letters) == 2


class DieLater(DieAt):
    """Dies at the n-th step after the first commit of its run: never twice at the same cut."""

    def __call__(self, name: str) -> None:
        if self.names or name == "commit.acknowledged":
            super().__call__(name)


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(2, 20), min_size=4, max_size=8))
def test_kills_from_outside_at_different_cuts_quarantine_nothing(
    tmp_path_factory: pytest.TempPathFactory, hits: list[int]
) -> None:
    """However many there are, and at whichever step."""
    world = World(tmp_path_factory.mktemp("w"))
    for hit in hits:
        with contextlib.suppress(Died):
            world.run(DieLater(hit))
    assert holds_property_p(world, world.run()) == []
    assert quarantined(world) == set()


@pytest.mark.parametrize("name", ["commit.begin", "commit.offsets"])
def test_deaths_in_the_commit_are_not_the_records_doing(tmp_path: Path, name: str) -> None:
    """A liveness probe that kills a worker whose broker is away: the fold had gone through each time."""
    world = World(tmp_path)
    for _ in range(4 * DEATHS):
        with pytest.raises(Died):
            world.run(lambda here: _die(here == name))
    assert holds_property_p(world, world.run()) == []
    assert quarantined(world) == set()


@pytest.mark.parametrize("kills", [DEATHS + 1, DEATHS + 2])
def test_a_cut_that_was_killed_from_outside_goes_through_in_halves(
    tmp_path: Path, kills: int
) -> None:
    """An operator's kills look like poison until the halves are tried."""
    world = World(tmp_path)
    for _ in range(kills):
        with pytest.raises(Died):
            world.run(lambda name: _die(name == "cut.frozen"))
    assert not world.log.ledger
    assert holds_property_p(world, world.run()) == []
    assert quarantined(world) == set()


def test_an_end_with_a_reason_is_no_death(tmp_path: Path) -> None:
    """A broker or disk that fails at the same cut over and over says nothing of its records."""
    world = World(tmp_path)

    def refuse(name: str) -> None:
        if name == "commit.begin":
            raise StorageError("disk full")

    for _ in range(DEATHS + 2):
        with pytest.raises(StorageError):
            world.run(refuse)
        assert AttemptsFile(tmp_path).read() == Attempts(left=True)
    world.run()
    assert world.notes.troubles["crash_suspects"] == 0


def test_a_worker_that_ends_well_writes_nothing_while_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One write at the start, one at the end: none a cut."""
    written: list[Attempts] = []
    monkeypatch.setattr(AttemptsFile, "write", lambda self, attempts: written.append(attempts))
    world = World(tmp_path)
    world.run()
    assert len(world.log.ledger) > 5
    assert written == [Attempts(left=False), Attempts(left=True)]


PLACE = ("shop.events", 3)
TRIAL = Trial({PLACE: 5}, {PLACE: 9}, {PLACE: 12}, 2, 3)


@pytest.mark.parametrize("attempts", [Attempts(), Attempts(False), Attempts(False, TRIAL)])
def test_what_was_written_is_read_again(tmp_path: Path, attempts: Attempts) -> None:
    AttemptsFile(tmp_path).write(attempts)
    assert AttemptsFile(tmp_path).read() == attempts


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b'{"left": false, "trial": 3}', b"\xff"])
def test_a_damaged_file_costs_the_memory_of_deaths_and_nothing_else(
    tmp_path: Path, raw: bytes
) -> None:
    (tmp_path / "attempts.json").write_bytes(raw)
    assert AttemptsFile(tmp_path).read() == Attempts()


def _die(now: bool) -> None:
    if now:
        raise Died("from outside")
