"""What is shown while a worker runs."""

from __future__ import annotations

import pytest

from stream_mtl.cut import CutResult, DriftAlarm
from workers import output
from workers.observer import CheckpointFacts, CutFacts, Several, Silent
from workers.progress import Tally, line, progress
from workers.simulate import paced


def _cut(observer: Tally, events: int, **facts: object) -> None:
    result = CutResult(0, (), (), {"events": events, "rejected": 1}, "", "", 0)
    observer.cut(result, CutFacts(step_seconds=0.0, **facts))  # type: ignore[arg-type]


def test_a_line_says_what_is_learned() -> None:
    shown: list[str] = []
    tally = Tally("backtest", 0.0, lambda t: shown.append(line(t)))
    quality = {"click": {"auc": 0.7123, "normalized_entropy": None, "forgetting": 0.01}}
    _cut(tally, 5, lag={("shop.events", 0): 3, ("shop.events", 1): 4}, quality=lambda: quality)
    assert "5 events" in shown[-1]
    assert "1 rejected" in shown[-1]
    assert "lag 7" in shown[-1]
    assert "click AUC 0.712 NE - forgetting 0.010" in shown[-1]


def test_a_line_says_what_drifted_since_the_line_before() -> None:
    shown: list[str] = []
    tally = Tally("trainer", 0.0, lambda t: shown.append(line(t)))
    alarm = DriftAlarm("click", "calibration", rose=False)
    result = CutResult(0, (), (), {}, "", "", 0, drifts=(alarm, alarm))
    tally.cut(result, CutFacts(step_seconds=0.0))
    _cut(tally, 5)
    assert shown[0].endswith("drift: click calibration")
    assert "drift" not in shown[1]


def test_events_that_an_outage_makes_it_fold_again_are_counted_once() -> None:
    """A start tells of what it rolls forward; a second one in the same process has told already."""
    tally = Tally("trainer", 3600.0, lambda t: None)
    for _ in range(2):
        tally.phase("restoring")
        _cut(tally, 5, replayed=True)
        tally.phase("running")
    _cut(tally, 2)
    assert tally.events == 7


def test_quality_is_not_asked_for_at_every_cut() -> None:
    """It costs a summary; between two looks only counts move."""

    def ask() -> dict[str, dict[str, object]]:
        raise AssertionError("asked")

    tally = Tally("x", 3600.0, lambda t: None)
    for _ in range(3):
        _cut(tally, 5, quality=ask)
    assert tally.events == 15


def test_a_long_roll_forward_is_not_a_line_a_cut() -> None:
    shown: list[str] = []
    tally = Tally("trainer", 3600.0, lambda t: shown.append(t.phase_name))
    for remaining in range(1000, 0, -1):
        tally.phase("rolling_forward", remaining=remaining)
    tally.phase("restored", cut=7, seconds=1.5)
    assert shown == ["rolling forward remaining=1000", "restored cut=7 seconds=1.5"]


def test_elsewhere_than_on_a_terminal_plain_lines_go_to_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress("trainer") as observer:
        observer.phase("running", partitions="")
        observer.checkpoint(CheckpointFacts(cut=1, failure="busy"))
        observer.summary({"tasks": {"click": {"auc": 0.5}}})
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[0] == "trainer: running"
    assert "\x1b" not in said.err


def test_a_terminal_gets_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The live display takes the same calls, and shows on stderr alone."""
    monkeypatch.setattr(output, "is_live", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes the captured stream for a terminal
    monkeypatch.setenv("TERM", "xterm")
    with progress("demo") as observer:
        observer.phase("running")
        observer.summary({"tasks": {"click": {"auc": 0.5, "labels": 3}}})
    shown = capsys.readouterr()
    assert "demo" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    "tty,term,no_color,live",
    [(True, "xterm", "", True), (False, "xterm", "", False), (True, "dumb", "", False), (True, "xterm", "1", False)],
)  # fmt: skip
def test_no_color_and_pipes_are_respected(
    tty: bool, term: str, no_color: str, live: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream:
        def isatty(self) -> bool:
            return tty

    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("NO_COLOR", no_color)
    assert output.is_live(Stream()) is live


def test_several_observers_hear_the_same_in_order() -> None:
    heard: list[str] = []

    class Ear(Silent):
        def __init__(self, name: str) -> None:
            self.name = name

        def phase(self, name: str, **facts: object) -> None:
            heard.append(f"{self.name} {name}")

    Several([Ear("a"), Ear("b")]).phase("running")
    assert heard == ["a running", "b running"]


def test_pacing_waits_for_the_rate_and_never_for_a_slow_reader() -> None:
    """10 a second; after a pause of the reader it catches up."""
    now, slept = [0.0], [0.0]

    def sleep(seconds: float) -> None:
        slept[0] += seconds
        now[0] += seconds

    stream = paced(range(31), 10.0, lambda: now[0], sleep)  # type: ignore[arg-type]
    for _ in range(11):
        next(stream)
    assert slept[0] == pytest.approx(1.0)
    now[0] += 10.0
    assert len(list(stream)) == 20
    assert slept[0] == pytest.approx(1.0)
