"""The watermark: minimum over partitions, idleness in cuts, never back."""

import json

import pytest

from stream_mtl.errors import StateError
from stream_mtl.watermark import Watermark

A, B = ("shop.events", 0), ("shop.events", 1)


def test_it_trails_the_slowest_partition_by_the_bound() -> None:
    """Newest minus the bound minus 1 ms, of the partition that is furthest behind."""
    watermark = Watermark(out_of_order_ms=100, idle_cuts=3)
    assert watermark.observe({A: 5_000, B: 3_000}, [A, B]) == 2_899
    assert watermark.observe({B: 4_000}, [A, B]) == 3_899


def test_it_never_goes_back() -> None:
    """Late records, and a partition that wakes up with old ones, leave it where it is."""
    watermark = Watermark(0, 2)
    assert watermark.observe({A: 5_000}, [A]) == 4_999
    assert watermark.observe({A: 1_000}, [A]) == 4_999
    assert watermark.observe({A: 6_000, B: 10}, [A, B]) == 4_999


def test_an_idle_partition_lets_go_after_the_configured_cuts() -> None:
    """Counted in cuts; with its next record it holds again. All idle: it stands still."""
    watermark = Watermark(0, 3)
    watermark.observe({A: 1_000, B: 1_000}, [A, B])
    for newest in (2_000, 3_000):
        assert watermark.observe({A: newest}, [A, B]) == 999
    assert watermark.observe({A: 4_000}, [A, B]) == 3_999
    assert watermark.observe({A: 5_000, B: 4_500}, [A, B]) == 4_499
    for _ in range(5):
        assert watermark.observe({}, [A, B]) == 4_499


def test_a_partition_that_never_spoke_holds_until_it_is_idle() -> None:
    """Its records may still come from the beginning of the log."""
    watermark = Watermark(0, 2)
    assert watermark.observe({A: 1_000}, [A, B]) == 0
    assert watermark.observe({A: 1_001}, [A, B]) == 1_000


def test_partitions_of_others_are_ignored() -> None:
    """Catalogue records carry times that say nothing about users."""
    watermark = Watermark(0, 2)
    assert watermark.observe({A: 9_000, ("shop.items", 0): 5}, [A]) == 8_999


def test_restored_it_goes_on_the_same() -> None:
    """Idle counts and newest times are state."""
    first = Watermark(10, 3)
    first.observe({A: 1_000, B: 800}, [A, B])
    first.observe({A: 2_000}, [A, B])
    second = Watermark(10, 3)
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    for times in ({A: 3_000}, {A: 4_000}, {B: 3_500}):
        assert second.observe(times, [A, B]) == first.observe(times, [A, B])
    with pytest.raises(StateError):
        second.restore({"value": 1})
