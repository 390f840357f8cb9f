"""Records that wait behind a transaction which their writer has left open."""

from __future__ import annotations

import pytest

from stream_mtl.kafka.unstable import Unstable
from workers.observer import Fact, Silent
from workers.open_transactions import OpenTransactions

EVENTS, ITEMS = "shop.events", "shop.items"


class Told(Silent):
    def __init__(self) -> None:
        self.said: list[tuple[Fact, Fact]] = []

    def trouble(self, kind: str, **facts: Fact) -> None:
        assert kind == "unstable"
        self.said.append((facts["topic"], facts["offsets"]))


def test_the_worst_partition_of_a_topic_is_told_once_and_its_end_too() -> None:
    told = Told()
    transactions = OpenTransactions(told)
    two = {(EVENTS, 0): Unstable(100, 7), (EVENTS, 1): Unstable(40, 9), (ITEMS, 0): Unstable(5, 1)}
    for now in (0.0, 5.0):
        transactions.look(two, now)
    assert told.said == [(EVENTS, 9), (ITEMS, 1)]
    transactions.look({(EVENTS, 0): Unstable(100, 7)}, 10.0)
    transactions.look({}, 15.0)
    assert told.said[2:] == [(EVENTS, 7), (ITEMS, 0), (EVENTS, 0)]


def test_one_that_hangs_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    transactions = OpenTransactions(Silent())
    for now in range(0, 400, 5):
        transactions.look({(EVENTS, 3): Unstable(100, 7 + now)}, now)
    (line,) = caplog.messages
    assert "shop.events[3]: 127 offsets from 100 on" in line
    assert "find-hanging" in line


def test_a_worker_that_ends_says_what_it_leaves(caplog: pytest.LogCaptureFixture) -> None:
    """With `--until-idle`: a job that reads all there is must not pass over some of it in silence."""
    transactions = OpenTransactions(Silent())
    transactions.leave({})
    assert caplog.messages == []
    transactions.leave({(EVENTS, 3): Unstable(100, 7)})
    (line,) = caplog.messages
    assert "7 offsets from 100 on" in line
    assert "not read" in line


def test_a_writer_whose_transactions_end_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    """There is one open at every look, but never the same."""
    transactions = OpenTransactions(Silent())
    for now in range(0, 400, 5):
        transactions.look({(EVENTS, 3): Unstable(100 + now, 7)}, now)
    assert caplog.messages == []
