"""A token bucket a user: what is faster than a person changes nothing, and is counted."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from stream_mtl.events import Click, Item, Purchase
from stream_mtl.settings_defence import Defence
from stream_mtl.throttle import Throttle

SECOND, MINUTE = 1_000, 60_000


def click(number: int, time_ms: int, user: str = "u1") -> Click:
    return Click(event_id=f"e{number}", time_ms=time_ms, user_id=user, item_id="i1")


def throttle(per_minute: int = 60, burst: int = 5) -> Throttle:
    return Throttle(Defence(events_per_minute=per_minute, burst=burst))


def test_a_burst_passes_and_then_one_event_a_second() -> None:
    bucket = throttle()
    kept, left_out = bucket.admit([click(n, 0) for n in range(8)])
    assert [event.event_id for event in kept] == ["e0", "e1", "e2", "e3", "e4"]
    assert left_out == {"throttled_click": 3}
    later = [click(10 + n, SECOND * (1 + n // 2)) for n in range(6)]  # two a second
    kept, _ = bucket.admit(later)
    assert [event.time_ms for event in kept] == [SECOND, 2 * SECOND, 3 * SECOND]


def test_who_is_quiet_has_the_whole_burst_again() -> None:
    bucket = throttle()
    bucket.admit([click(n, 0) for n in range(5)])
    kept, _ = bucket.admit([click(10 + n, MINUTE) for n in range(5)])
    assert len(kept) == 5


def test_others_and_the_catalogue_are_not_held_back() -> None:
    item = Item(event_id="x", time_ms=0, item_id="i9")
    kept, left_out = throttle(burst=1).admit([click(0, 0), click(1, 0), item, click(2, 0, "u2")])
    assert [event.event_id for event in kept] == ["e0", "x", "e2"]
    assert sum(left_out.values()) == 1


def test_old_event_times_bring_no_tokens() -> None:
    """Nor does going back and forth in time: else a flood would only have to claim old times."""
    bucket = throttle(burst=2)
    kept, _ = bucket.admit([click(0, MINUTE), click(1, 0), click(2, MINUTE), click(3, 0)])
    assert len(kept) == 2


def test_counts_name_the_type_as_on_the_wire() -> None:
    bought = [Purchase(event_id=f"p{n}", time_ms=0, user_id="u1", item_id="i1") for n in range(3)]
    assert throttle(burst=1).admit(bought)[1] == {"throttled_purchase": 2}


def test_0_is_off() -> None:
    events = [click(n, 0) for n in range(1_000)]
    bucket = throttle(per_minute=0, burst=1)
    assert bucket.admit(events) == (events, {})
    assert bucket.state() == {}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.sampled_from(["u1", "u2"])), max_size=60),
    st.integers(0, 60),
)
def test_a_restored_bucket_goes_on_alike_wherever_it_was_saved(
    sent: list[tuple[int, str]], at: int
) -> None:
    events = [click(n, time_ms, user) for n, (time_ms, user) in enumerate(sent)]
    whole, first, second = throttle(), throttle(), throttle()
    kept, _ = whole.admit(events)
    before, _ = first.admit(events[:at])
    second.restore(json.loads(json.dumps(first.state())))
    after, _ = second.admit(events[at:])
    assert [*before, *after] == list(kept)


def test_of_an_erased_user_nothing_is_left() -> None:
    bucket = throttle()
    bucket.admit([click(0, 0, "somebody"), click(1, 0)])
    bucket.erase("somebody")
    assert "somebody" not in json.dumps(bucket.state())
