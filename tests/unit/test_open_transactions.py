"""Records that wait behind a transaction which their writer has left open."""

from __future__ import annotations

import pytest

from stream_mtl.kafka.unstable import Unstable
from workers.observer import Fact, Silent
from workers.open_transactions import OpenTransactions

EVENTS, ITEMS = "shop.events", "shop.items"


class Told(Silent):
    def __init__(self) -> None:
        self.said: list[tuple[Fact, Fact, Fact]] = []

    def trouble(self, kind: str, **facts: Fact) -> None:
        assert kind == "unstable"
        self.said.append((facts["topic"], facts["offsets"], facts["seconds"]))

    def take(self) -> list[tuple[Fact, Fact, Fact]]:
        said, self.said = self.said, []
        return said


def test_the_most_records_and_the_longest_time_of_a_topic_are_told_and_the_end_once() -> None:
    told = Told()
    transactions = OpenTransactions(told, ())
    first = {(EVENTS, 0): Unstable(100, 7), (ITEMS, 0): Unstable(5, 1)}
    transactions.look(first, 10.0)
    assert told.take() == [(EVENTS, 7, 0), (ITEMS, 1, 0)]
    transactions.look({(EVENTS, 0): Unstable(100, 7), (EVENTS, 1): Unstable(40, 9)}, 15.0)
    assert told.take() == [(EVENTS, 9, 5), (ITEMS, 0, 0)]
    transactions.look({(EVENTS, 1): Unstable(40, 9)}, 20.0)
    assert told.take() == [(EVENTS, 9, 5)]
    for now in (25.0, 30.0):
        transactions.look({}, now)
    assert told.take() == [(EVENTS, 0, 0)]


def test_a_writer_that_never_pauses_is_not_stuck() -> None:
    """Its transactions end: what may be read moves on, and the clock begins anew."""
    told = Told()
    transactions = OpenTransactions(told, ())
    for now in range(0, 400, 5):
        transactions.look({(EVENTS, 3): Unstable(100 + now, 7)}, now)
    assert {said[2] for said in told.take()} == {0}


def test_what_an_earlier_worker_of_the_process_told_is_taken_back() -> None:
    """Cut off from its broker it was replaced; a transaction that ended meanwhile must not be shown for ever."""
    told = Told()
    OpenTransactions(told, (EVENTS, ITEMS)).look({(EVENTS, 0): Unstable(100, 7)}, 5.0)
    assert told.take() == [(EVENTS, 7, 0), (ITEMS, 0, 0)]


def test_one_that_hangs_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    transactions = OpenTransactions(Silent(), ())
    for now in range(0, 400, 5):
        transactions.look({(EVENTS, 3): Unstable(100, 7 + now)}, now)
    (line,) = caplog.messages
    assert "shop.events[3]: 127 offsets from 100 on" in line
    assert "find-hanging" in line


def test_a_worker_that_ends_says_what_it_leaves(caplog: pytest.LogCaptureFixture) -> None:
    """With `--until-idle`: a job that reads all there is must not pass over some of it in silence."""
    transactions = OpenTransactions(Silent(), ())
    transactions.leave({})
    assert caplog.messages == []
    transactions.leave({(EVENTS, 3): Unstable(100, 7)})
    (line,) = caplog.messages
    assert "7 offsets from 100 on" in line
    assert "not read" in line


def test_a_writer_whose_transactions_end_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    """There is one open at every look, but never the same."""
    transactions = OpenTransactions(Silent(), ())
    for now in range(0, 400, 5):
        transactions.look({(EVENTS, 3): Unstable(100 + now, 7)}, now)
    assert caplog.messages == []
