"""An open breaker looks now and then whether its producer is mended; the fold never knows."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from stream_mtl.config import Config, DeadLetters
from stream_mtl.cut import CutResult
from stream_mtl.deadletters import Breaker
from tests.unit.test_recovery import PLACES, Notes, World, holds_property_p
from workers.observer import CutFacts
from workers.rest import LONGEST_S, Rest

DLQ = DeadLetters(breaker_window=20, breaker_rest_s=50)


def test_a_good_probe_closes_the_breaker_and_a_bad_one_does_not() -> None:
    breaker = Breaker(DeadLetters())
    breaker.feed(1_000, 900)
    assert breaker.probe(100, 21)
    assert not breaker.probe(100, 20)
    assert not breaker.open


def test_a_probe_without_records_says_nothing() -> None:
    breaker = Breaker(DeadLetters())
    breaker.feed(1_000, 900)
    assert breaker.probe(0, 0)


def test_what_a_good_probe_refused_counts_towards_the_next_opening() -> None:
    """Else a producer that is just under the limit in small cuts would never be seen."""
    breaker = Breaker(DeadLetters())
    breaker.feed(1_000, 900)
    breaker.probe(100, 20)
    assert not breaker.feed(800, 180)
    assert breaker.feed(100, 1)


def test_the_rest_doubles_with_each_bad_look_up_to_an_hour_and_starts_anew() -> None:
    rest = Rest(60, probes=True)
    assert rest.begin(0.0) == 60
    assert (rest.over(59.0), rest.over(60.0)) == (False, True)
    assert [rest.again(60.0) for _ in range(8)][:3] == [120, 240, 480]
    assert rest.again(60.0) == LONGEST_S
    assert rest.begin(9_000.0) == 60


def test_resume_alone_means_that_no_time_is_long_enough() -> None:
    rest = Rest(60, probes=False)
    rest.begin(0.0)
    assert not rest.over(1e9)


class Told(Notes):
    """Keeps what was said of the breaker, and the rejects and records of each cut."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker: list[object] = []
        self.cuts: list[tuple[bool, int]] = []

    def trouble(self, kind: str, **facts: object) -> None:
        super().trouble(kind, **facts)
        if kind == "breaker":
            self.breaker.append(facts["open"])

    def cut(self, result: CutResult, facts: CutFacts) -> None:
        super().cut(result, facts)
        is_open = bool(self.breaker and self.breaker[-1])
        self.cuts.append((is_open, result.counts["events"]))


class Broken(World):
    """40 bad records, then good ones. The process is never told to go on; only time passes."""

    def __post_init__(self) -> None:
        self.told = Told()
        self.log.fill(PLACES, [b"bad"] * 40 + [b"%d" % n for n in range(80)])

    @property
    def config(self) -> Config:
        return super().config.model_copy(update={"dlq": DLQ})


def run_until_read(world: Broken, monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    """Run without `until_idle`, and stop at the end of the log or after so many looks at the stop flag."""
    count = 0

    class Flag(threading.Event):
        def is_set(self) -> bool:
            nonlocal count
            count += 1
            read = world.log.offsets == {p: len(r) for p, r in world.log.records.items()}
            return read or count > looks

        def wait(self, timeout: float | None = None) -> bool:
            world.now_s += 500
            return False

    monkeypatch.setattr("tests.unit.test_recovery.threading.Event", Flag)
    monkeypatch.setattr("tests.unit.test_recovery.Notes", lambda: world.told)
    world.run(until_idle=False)


def test_the_worker_probes_in_small_cuts_and_goes_on_when_the_producer_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All input is read, in cuts of a tenth of the window while it is open; and the fold is the same."""
    world = Broken(tmp_path)
    run_until_read(world, monkeypatch, 10_000)
    assert world.told.breaker[0] == 1
    assert world.told.breaker[-1] == 0
    probes = [records for is_open, records in world.told.cuts if is_open]
    assert len(probes) > 3
    assert max(probes) <= 2
    fold = world.refold()[0]
    assert fold.state()["events"] == 120
    assert holds_property_p(world, {"state_digest": fold.state_digest()}) == ["dead letters"]
    assert len(world.log.dead_letters) == 40  # of `bad`, which property P does not know


def test_with_resume_the_worker_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = Broken(tmp_path)
    dlq = DLQ.model_copy(update={"breaker_reopen": "resume"})
    config = world.config.model_copy(update={"dlq": dlq})
    monkeypatch.setattr(Broken, "config", config)
    run_until_read(world, monkeypatch, 2_000)
    assert world.told.breaker == [1]
    assert sum(records for _, records in world.told.cuts) < 40
