"""How long the log will still hold what a restart has to fold again."""

from __future__ import annotations

import math

from stream_mtl.cut import Cut, Record
from stream_mtl.headroom import Headroom


def cut(number: int, *times: int, topic: str = "events") -> Cut:
    records = tuple(Record(topic, 0, at, None, b"", at) for at in times)
    return Cut(number, records, (), 0)


def test_the_oldest_record_after_the_newest_checkpoint_decides() -> None:
    headroom = Headroom({"events": 10_000})
    headroom.folded(cut(1, 5_000, 4_000))
    headroom.folded(cut(2, 6_000))
    assert headroom.seconds(now_ms=4_000) == 10
    assert headroom.seconds(now_ms=14_500) == -0.5
    headroom.saved(1)
    assert headroom.seconds(now_ms=6_000) == 10


def test_a_late_record_of_a_later_cut_counts() -> None:
    headroom = Headroom({"events": 10_000})
    headroom.folded(cut(1, 5_000))
    headroom.folded(cut(2, 1_000))
    headroom.saved(1)
    assert headroom.seconds(now_ms=1_000) == 10


def test_each_topic_has_its_own_retention_and_some_have_none() -> None:
    headroom = Headroom({"events": 10_000, "items": -1})
    headroom.folded(cut(1, 1_000, topic="items"))
    headroom.folded(cut(2, 1_000, topic="unknown"))
    assert headroom.seconds(now_ms=1_000) == 10
    assert Headroom({"events": -1}).seconds(0) == math.inf
    assert Headroom({}).seconds(0) == math.inf


def test_many_cuts_without_a_checkpoint_never_make_it_look_better() -> None:
    """What is remembered is bounded; the estimate may only err towards the alarm."""
    headroom, exact = Headroom({"events": 1_000}), {}
    for number in range(25_001):
        headroom.folded(cut(number, number))
        exact[number] = number + 1_000
    for saved in (0, 777, 12_345, 24_999):
        headroom.saved(saved)
        truth = exact[saved + 1] / 1000
        assert truth - 1 <= headroom.seconds(now_ms=0) <= truth
