"""The label join: attribution, windows, corrections, duplicates, and independence of arrival order."""

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_mtl.attribution import MAX_OPEN
from stream_mtl.config import Join, TaskJoin
from stream_mtl.errors import StateError
from stream_mtl.events import (
    AddToCart,
    AnyEvent,
    Click,
    Exposure,
    Impression,
    Item,
    Outcome,
    Profile,
    Purchase,
    Refund,
    Review,
    Search,
    Shown,
    View,
)
from stream_mtl.join_state import UserJoin
from stream_mtl.label_join import LabelJoin, on_event, on_timer

CONFIG = Join(
    click_window_ms=100, purchase_window_ms=1_000, late_ms=500, dedup_ms=300, out_of_order_ms=30
)
# with shorter windows of purchases and carts: one that ends before the clicks are known, and one after
WINDOWED = TaskJoin(**CONFIG.model_dump(), windows_ms=(50, 300))
JOINS = pytest.mark.parametrize("config", [CONFIG, WINDOWED], ids=["plain", "windowed"])
END = 10**6


def impression(event_id: str, time_ms: int, *items: str, **more: str) -> Impression:
    shown = tuple(Shown(item_id=item, position=i + 1) for i, item in enumerate(items))
    return Impression(
        event_id=event_id, time_ms=time_ms, user_id=more.pop("user", "u"), items=shown, **more
    )


def click(event_id: str, time_ms: int, item: str, **more: str) -> Click:
    return Click(
        event_id=event_id, time_ms=time_ms, user_id=more.pop("user", "u"), item_id=item, **more
    )


def purchase(event_id: str, time_ms: int, item: str, **more: str) -> Purchase:
    return Purchase(event_id=event_id, time_ms=time_ms, user_id="u", item_id=item, **more)


def refund(event_id: str, time_ms: int, item: str, order_id: str) -> Refund:
    return Refund(event_id=event_id, time_ms=time_ms, user_id="u", item_id=item, order_id=order_id)


def play(
    events: Sequence[AnyEvent], bound: int = 30, config: Join = CONFIG, end: int = END
) -> tuple[list[Exposure], list[Outcome], LabelJoin]:
    """Feed one event at a time, the watermark trailing the newest time by the bound."""
    join, exposures, outcomes, newest = LabelJoin(config), [], [], 0
    for event in events:
        for joined in (join.feed([event]), None):
            if joined is None:
                newest = max(newest, event.time_ms)
                joined = join.advance(newest - bound - 1)
            exposures += joined.exposures
            outcomes += joined.outcomes
    joined = join.advance(end)
    return exposures + joined.exposures, outcomes + joined.outcomes, join


def last_labels(
    exposures: Sequence[Exposure], outcomes: Sequence[Outcome]
) -> dict[tuple[str, str, str], float]:
    """(exposure, item, task) to the label that the highest revision gave."""
    items = {e.exposure_id: [shown.item_id for shown in e.items] for e in exposures}
    labels: dict[tuple[str, str, str], float] = {}
    for outcome in sorted(outcomes, key=lambda o: o.revision):
        for task, row in outcome.labels.items():
            for item, label in zip(items[outcome.exposure_id], row, strict=True):
                if label is not None:
                    labels[outcome.exposure_id, item, task] = label
    return labels


def test_a_click_and_a_purchase_become_labels_when_their_windows_close() -> None:
    """Revision 1 has clicks at the click window's end, 2 has purchases at the purchase window's."""
    exposures, outcomes, _ = play(
        [impression("i", 1_000, "a", "b", "c"), click("k", 1_040, "b"), purchase("p", 1_500, "b")]
    )
    assert [e.exposure_id for e in exposures] == ["i"]
    assert not exposures[0].needs_negatives
    assert [(o.revision, o.time_ms, o.labels, o.correction, o.closed) for o in outcomes] == [
        (1, 1_100, {"click": (0.0, 1.0, 0.0)}, False, False),
        (2, 2_000, {"purchase": (0.0, 1.0, 0.0), "cart": (0.0, 0.0, 0.0)}, False, False),
        (3, 2_500, {}, False, True),
    ]


def test_a_shorter_window_says_sooner_whether_something_was_bought_within_it() -> None:
    """Known when it closes, or with the clicks; what comes after it counts for the long one alone."""
    events = [
        impression("i", 1_000, "a", "b", "c"),
        purchase("p", 1_040, "a", order_id="o1"),
        AddToCart(event_id="c", time_ms=1_290, user_id="u", item_id="b"),
        purchase("q", 1_301, "b", order_id="o2"),
    ]
    _, outcomes, _ = play(events, config=WINDOWED)
    assert [(o.time_ms, o.labels, o.correction) for o in outcomes] == [
        (1_100, {"click": (1.0, 0.0, 0.0)}, False),
        (1_100, {"purchase@50": (1.0, 0.0, 0.0), "cart@50": (0.0, 0.0, 0.0)}, False),
        (1_300, {"purchase@300": (1.0, 0.0, 0.0), "cart@300": (0.0, 1.0, 0.0)}, False),
        (2_000, {"purchase": (1.0, 1.0, 0.0), "cart": (0.0, 1.0, 0.0)}, False),
        (2_500, {}, False),
    ]


def test_what_was_bought_within_a_shorter_window_and_is_heard_of_later_corrects_it() -> None:
    """So does a refund; neither touches what the window did not hold."""
    late = [
        impression("i", 1_000, "a", "b"),
        impression("j", 1_600, "c"),
        purchase("p", 1_200, "a", order_id="o1"),
        purchase("q", 1_500, "b", order_id="o2"),
    ]
    _, outcomes, _ = play(late, config=WINDOWED)
    mended = [o.labels for o in outcomes if o.correction and o.exposure_id == "i"]
    assert mended == [{"purchase@300": (1.0, None)}]
    taken_back = [*late[:2], late[2], late[3], refund("r", 1_650, "a", "o1")]
    labels = last_labels(*play(taken_back, config=WINDOWED)[:2])
    assert labels["i", "a", "purchase@300"] == labels["i", "a", "purchase"] == 0.0
    assert (labels["i", "b", "purchase@300"], labels["i", "b", "purchase"]) == (0.0, 1.0)


def test_without_lateness_the_purchase_window_closes_the_exposure() -> None:
    """late_ms = 0: the purchase outcome is the last word."""
    config = CONFIG.model_copy(update={"late_ms": 0})
    _, outcomes, join = play([impression("i", 1_000, "a")], config=config)
    assert [(o.revision, sorted(o.labels), o.closed) for o in outcomes] == [
        (1, ["click"], False),
        (2, ["cart", "purchase"], True),
    ]
    assert len(join) == 0


def test_a_search_that_lists_items_labels_the_search_task_too() -> None:
    """A search is an exposure of surface search; one without results opens nothing."""
    listed = Search(
        event_id="s", time_ms=1_000, user_id="u", query="red", items=(Shown(item_id="a"),)
    )
    bare = Search(event_id="t", time_ms=1_001, user_id="u", query="blue")
    exposures, outcomes, join = play([listed, bare, click("k", 1_010, "a")])
    assert [(e.surface, e.query) for e in exposures] == [("search", "red")]
    assert outcomes[0].labels == {"click": (1.0,), "search": (1.0,)}
    assert join.counts["search"] == 1


def test_a_request_id_wins_over_the_newest_exposure() -> None:
    """By request id where the event has one, else by last touch."""
    shown = [
        impression("old", 1_000, "a", request_id="r1"),
        impression("new", 1_010, "a", request_id="r2"),
    ]
    by_request = last_labels(*play([*shown, click("k", 1_020, "a", request_id="r1")])[:2])
    assert by_request["old", "a", "click"] == 1.0
    assert by_request["new", "a", "click"] == 0.0
    by_touch = last_labels(*play([*shown, click("k", 1_020, "a")])[:2])
    assert by_touch["old", "a", "click"] == 0.0
    assert by_touch["new", "a", "click"] == 1.0


def test_a_purchase_goes_to_the_exposure_that_was_clicked() -> None:
    """The last clicked exposure of the item, though a newer one listed it; else the last one."""
    events = [
        impression("clicked", 1_000, "a", "b"),
        click("k", 1_010, "a"),
        impression("newer", 1_200, "a", "b"),
        purchase("p", 1_300, "a"),
        purchase("q", 1_700, "b"),
    ]
    labels = last_labels(*play(events)[:2])
    assert labels["clicked", "a", "purchase"] == 1.0
    assert labels["newer", "a", "purchase"] == 0.0
    assert labels["clicked", "b", "purchase"] == 0.0
    assert labels["newer", "b", "purchase"] == 1.0
    assert labels["newer", "b", "click"] == 0.0, "its click window had closed before the purchase"


def test_a_purchase_inside_the_click_window_implies_the_click() -> None:
    """Nobody buys what they did not open."""
    labels = last_labels(*play([impression("i", 1_000, "a"), purchase("p", 1_050, "a")])[:2])
    assert labels["i", "a", "click"] == labels["i", "a", "purchase"] == 1.0


@pytest.mark.parametrize("kind", [Click, View, AddToCart])
def test_a_touch_that_nothing_had_shown_opens_an_exposure_that_needs_negatives(kind: type) -> None:
    """The exposure comes at once, its click label when the disorder bound has passed."""
    join = LabelJoin(CONFIG)
    joined = join.feed([kind(event_id="k", time_ms=1_000, user_id="u", item_id="a", domain="d")])
    (exposure,) = joined.exposures
    assert exposure.needs_negatives
    assert (exposure.exposure_id, exposure.domain) == ("k", "d")
    assert exposure.items[0].item_id == "a"
    assert not join.advance(999).outcomes
    (outcome,) = join.advance(1_000).outcomes
    assert (outcome.revision, outcome.labels) == (1, {"click": (1.0,)})
    assert join.counts["click"] == 1


def test_a_purchase_of_a_clicked_item_belongs_to_the_click_that_opened_it() -> None:
    """Click, page view, cart and purchase of one item are one exposure."""
    events = [
        click("k", 1_000, "a", query="red"),
        View(event_id="v", time_ms=1_010, user_id="u", item_id="a"),
        AddToCart(event_id="c", time_ms=1_020, user_id="u", item_id="a"),
        purchase("p", 1_500, "a"),
    ]
    exposures, outcomes, _ = play(events)
    assert [(e.exposure_id, e.surface) for e in exposures] == [("k", "search")]
    assert last_labels(exposures, outcomes) == {
        ("k", "a", "click"): 1.0,
        ("k", "a", "search"): 1.0,
        ("k", "a", "purchase"): 1.0,
        ("k", "a", "cart"): 1.0,
    }


def test_what_was_looked_at_and_put_into_the_cart_become_labels_of_their_own() -> None:
    """Dwell time of viewed items when the click window closes (the longest view), carts with the purchases."""
    events = [
        impression("i", 1_000, "a", "b"),
        View(
            event_id="v", time_ms=1_010, user_id="u", item_id="a", dwell_ms=7, completion_ratio=0.5
        ),
        View(event_id="w", time_ms=1_020, user_id="u", item_id="a", dwell_ms=5),
        AddToCart(event_id="c", time_ms=1_400, user_id="u", item_id="b"),
    ]
    _, outcomes, _ = play(events)
    assert [(o.time_ms, o.labels) for o in outcomes if o.labels and not o.correction] == [
        (1_100, {"click": (1.0, 0.0), "dwell_ms": (7.0, None), "completion": (0.5, None)}),
        (2_000, {"purchase": (0.0, 0.0), "cart": (0.0, 1.0)}),
    ]


def test_a_longer_look_after_the_window_corrects_the_dwell_time() -> None:
    """And a cart that comes after the purchase window was emitted corrects the cart label."""
    events = [
        impression("i", 1_000, "a"),
        View(event_id="v", time_ms=1_010, user_id="u", item_id="a", dwell_ms=7),
        Profile(event_id="x", time_ms=2_200, user_id="u", attributes=()),
        View(event_id="w", time_ms=1_050, user_id="u", item_id="a", dwell_ms=900),
        AddToCart(event_id="c", time_ms=1_900, user_id="u", item_id="a"),
    ]
    exposures, outcomes, _ = play(events)
    corrected = [o.labels for o in outcomes if o.correction]
    assert corrected == [{"dwell_ms": (900.0,)}, {"cart": (1.0,)}]
    assert last_labels(exposures, outcomes)["i", "a", "dwell_ms"] == 900.0


def test_a_rating_is_an_example_of_its_own() -> None:
    """Known at once, closed at once, without negatives; a review without a rating is none."""
    rated = Review(event_id="r", time_ms=5_000, user_id="u", item_id="a", rating=4.0)
    silent = Review(event_id="s", time_ms=5_001, user_id="u", item_id="a", text="fine")
    exposures, outcomes, join = play([rated, silent, rated])
    assert [(e.exposure_id, e.needs_negatives, len(e.items)) for e in exposures] == [
        ("r", False, 1)
    ]
    assert [(o.labels, o.closed) for o in outcomes] == [({"rating": (4.0,)}, True)]
    assert (join.counts["review"], join.counts["duplicates"]) == (1, 1)


def test_an_exposure_that_arrives_after_its_click_takes_the_label() -> None:
    """Within the disorder bound the stand-in of the click is withdrawn, without any label."""
    exposures, outcomes, join = play([click("k", 1_010, "a"), impression("i", 1_000, "a", "b")])
    assert [e.exposure_id for e in exposures] == ["k", "i"]
    assert last_labels(exposures, outcomes) == {
        ("i", "a", "click"): 1.0,
        ("i", "b", "click"): 0.0,
        ("i", "a", "purchase"): 0.0,
        ("i", "b", "purchase"): 0.0,
        ("i", "a", "cart"): 0.0,
        ("i", "b", "cart"): 0.0,
    }
    withdrawn = [o for o in outcomes if o.exposure_id == "k"]
    assert [(o.revision, o.labels, o.closed) for o in withdrawn] == [(0, {}, True)]
    assert join.counts["withdrawn"] == 1


def test_a_late_purchase_corrects_its_item_alone() -> None:
    """Its own time is inside the window, it arrives after the window's outcome."""
    events = [impression("i", 1_000, "a", "b"), Profile(event_id="x", time_ms=2_200, user_id="u", attributes=()), purchase("p", 1_500, "b"), click("k", 1_050, "a")]  # fmt: skip
    exposures, outcomes, join = play(events)
    corrections = [o for o in outcomes if o.correction]
    assert [o.labels for o in corrections] == [{"purchase": (None, 1.0)}, {"click": (1.0, None)}]
    assert [o.revision for o in outcomes] == [1, 2, 3, 4, 5]
    assert last_labels(exposures, outcomes)["i", "b", "purchase"] == 1.0
    assert join.counts["late"] == 2
    assert join.counts["corrections"] == 2


def test_a_refund_takes_the_purchase_back() -> None:
    """Before the outcome silently, after it as a correction; an unknown order changes nothing."""
    bought = [impression("i", 1_000, "a"), purchase("p", 1_200, "a", order_id="o")]
    early = [*bought, refund("r", 1_300, "a", "o"), refund("s", 1_301, "a", "other")]
    exposures, outcomes, _ = play(early)
    assert last_labels(exposures, outcomes)["i", "a", "purchase"] == 0.0
    assert not any(o.correction for o in outcomes)
    exposures, outcomes, _ = play([*bought, refund("r", 2_300, "a", "o")])
    assert [o.labels for o in outcomes if o.correction] == [{"purchase": (0.0,)}]
    kept = [*bought, purchase("q", 1_250, "a", order_id="o2"), refund("r", 2_300, "a", "o")]
    exposures, outcomes, _ = play(kept)
    assert last_labels(exposures, outcomes)["i", "a", "purchase"] == 1.0


def test_without_a_click_window_negatives_are_out_at_once_and_corrected() -> None:
    """click_window_ms = 0 emits at the exposure's own time; a click repairs the label."""
    config = CONFIG.model_copy(update={"click_window_ms": 0})
    _, outcomes, _ = play([impression("i", 1_000, "a", "b"), click("k", 1_400, "b")], config=config)
    assert [(o.time_ms, o.labels, o.correction) for o in outcomes[:2]] == [
        (1_000, {"click": (0.0, 0.0)}, False),
        (1_400, {"click": (None, 1.0)}, True),
    ]


def test_an_event_id_counts_once() -> None:
    """Duplicates within dedup_ms are dropped; a re-delivered exposure also later, while it is open."""
    join = LabelJoin(CONFIG)
    shown, item = impression("i", 1_000, "a"), Item(event_id="m", time_ms=1, item_id="a")
    joined = join.feed([item, shown, shown, click("k", 1_010, "a")])
    assert (len(joined.exposures), joined.duplicates) == (1, 1)
    assert joined.events == [item, shown, click("k", 1_010, "a")]
    join.advance(1_700)
    join.feed([impression("j", 1_800, "z")])
    again = join.feed([shown])
    assert (again.exposures, again.duplicates) == ([], 1)


def test_items_of_an_exposure_are_distinct_and_capped() -> None:
    """Each item is one row; what goes beyond max_items is cut off."""
    config = CONFIG.model_copy(update={"max_items": 2})
    joined = LabelJoin(config).feed([impression("i", 1_000, "a", "a", "b", "c")])
    assert [shown.item_id for shown in joined.exposures[0].items] == ["a", "b"]


def test_a_user_with_too_many_exposures_loses_the_oldest() -> None:
    """The state of one user is bounded; what closes early has no label for open windows."""
    join = LabelJoin(CONFIG)
    joined = join.feed([impression(f"i{n}", 1_000 + n // 100, "a") for n in range(MAX_OPEN + 3)])
    assert [(o.exposure_id, o.labels, o.closed) for o in joined.outcomes] == [
        ("i0", {}, True), ("i1", {}, True), ("i10", {}, True),
    ]  # fmt: skip


def test_an_erased_user_is_in_no_window() -> None:
    """Nothing of the user is left in the state, and no timer brings anything back."""
    join = LabelJoin(CONFIG)
    join.feed([impression("i", 1_000, "a", user="gone"), impression("j", 1_000, "a", user="stays")])
    assert join.erase("gone") == 1
    assert join.erase("gone") == 0
    assert "gone" not in json.dumps(join.state())
    assert {o.user_id for o in join.advance(END).outcomes} == {"stays"}


def test_users_leave_when_nothing_is_open() -> None:
    """A key without windows and remembered ids is dropped."""
    join = LabelJoin(CONFIG)
    join.feed([Profile(event_id="x", time_ms=1_000, user_id="u", attributes=())])
    join.advance(1_299)
    assert len(join) == 1
    join.advance(1_300)
    assert len(join) == 0


def test_the_keyed_functions_run_without_the_runner() -> None:
    """Any keyed engine can host them: state through JSON between calls, spurious timers harmless."""
    state: UserJoin | None = None
    emitted: list[Outcome] = []
    timers: list[int] = []
    for event in [impression("i", 1_000, "a"), click("k", 1_040, "a")]:
        state, out = on_event(state, event, CONFIG)
        timers += out.timers
        state = UserJoin.from_json(json.loads(json.dumps(state.to_json())))
    while timers:
        timers.sort()
        due = timers.pop(0)
        if state is not None:
            for time_ms in (due - 1, due, due):
                if state is not None:
                    state, out = on_timer(state, time_ms, CONFIG)
                    emitted += out.outcomes
                    timers += out.timers
    assert state is None
    assert [o.labels for o in emitted] == [
        {"click": (1.0,)},
        {"purchase": (0.0,), "cart": (0.0,)},
        {},
    ]


def test_a_state_that_did_not_keep_when_things_were_bought_is_still_read() -> None:
    """Of a fold before version 8: as if they had been at once."""
    bought = [impression("i", 1_000, "a", "b"), purchase("p", 1_200, "a", order_id="o1")]
    join = LabelJoin(CONFIG)
    join.feed(bought)
    join.advance(1_250)
    state = json.loads(json.dumps(join.state()))
    ((user,),) = (state["users"],)
    (exposure,) = user[1]
    assert exposure[11] == [[0, [["o1", 1_200]]]]
    user[1] = [[*exposure[:11], [[0, ["o1"]]], exposure[12]]]
    older = LabelJoin(WINDOWED)
    older.restore(state)
    labels = {task: row for o in older.advance(END).outcomes for task, row in o.labels.items()}
    assert labels["purchase"] == labels["purchase@300"] == (1.0, 0.0)


def test_a_broken_state_is_refused() -> None:
    """StateError, not a stack trace from somewhere inside."""
    with pytest.raises(StateError, match="not readable"):
        LabelJoin(CONFIG).restore({"users": [["u", 1]], "watermark": 0, "counts": {}})


def test_the_join_needs_neither_torch_nor_kafka() -> None:
    """A stream processor's workers should not have to install them."""
    code = "import sys, stream_mtl.label_join; print([m for m in ('torch', 'confluent_kafka', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- properties over random shops

ITEMS = "abc"


@st.composite
def histories(draw: st.DrawFn) -> list[AnyEvent]:
    """Events of two users in the order of time, with distinct ids, some requests and orders."""
    time_ms, events = 1_000, []
    for n in range(draw(st.integers(1, 25))):
        time_ms += draw(st.integers(0, 60))
        user, item = draw(st.sampled_from("uw")), draw(st.sampled_from(ITEMS))
        request = draw(st.sampled_from(["", "", "r1", "r2"]))
        order = draw(st.sampled_from(["o1", "o2"]))
        kind = draw(
            st.sampled_from(["show", "show", "click", "click", "view", "cart", "buy", "refund"])
        )
        common = {"event_id": f"e{n:02}", "time_ms": time_ms, "user_id": user}
        if kind == "show":
            listed = draw(st.permutations(ITEMS))[: draw(st.integers(1, 3))]
            shown = tuple(Shown(item_id=i) for i in listed)
            events.append(Impression(**common, items=shown, request_id=request))
        elif kind == "click":
            events.append(Click(**common, item_id=item, request_id=request))
        elif kind == "view":
            events.append(View(**common, item_id=item, dwell_ms=draw(st.integers(0, 99))))
        elif kind == "cart":
            events.append(AddToCart(**common, item_id=item))
        elif kind == "buy":
            events.append(Purchase(**common, item_id=item, order_id=order, request_id=request))
        else:
            events.append(Refund(**common, item_id=item, order_id=order))
        if draw(st.integers(0, 9)) == 0:
            events.append(events[-1])
    return events


def shuffled(events: Sequence[AnyEvent], delays: Sequence[int]) -> list[AnyEvent]:
    """Arrival order when each event is delayed; delays up to the bound keep disorder within it."""
    arrivals = sorted(range(len(events)), key=lambda i: (events[i].time_ms + delays[i], delays[i]))
    return [events[i] for i in arrivals]


@JOINS
@settings(max_examples=300, deadline=None)
@given(events=histories(), data=st.data())
def test_labels_do_not_depend_on_arrival_order(
    config: Join, events: list[AnyEvent], data: st.DataObject
) -> None:
    """Disorder within the bound: the same last label for every example, the same examples."""
    delays = [data.draw(st.integers(0, 30)) for _ in events]
    in_order = last_labels(*play(events, config=config)[:2])
    assert last_labels(*play(shuffled(events, delays), config=config)[:2]) == in_order


@settings(max_examples=200, deadline=None)
@given(events=histories())
def test_a_shorter_window_holds_what_a_history_that_ends_with_it_holds(
    events: list[AnyEvent],
) -> None:
    """Oracle: the plain join, told nothing of what came after the window's end. Without refunds, which reach back."""
    events = [event for event in events if not isinstance(event, Refund)]
    exposures, outcomes, _ = play(events, config=WINDOWED)
    labels = last_labels(exposures, outcomes)
    for exposure in exposures:
        for ms in WINDOWED.windows:
            until = [event for event in events if event.time_ms <= exposure.time_ms + ms]
            ended = last_labels(*play(until)[:2])
            for shown in exposure.items:
                for source in ("purchase", "cart"):
                    key = (exposure.exposure_id, shown.item_id)
                    assert labels.get((*key, f"{source}@{ms}")) == ended.get((*key, source))


def test_attribution_by_arrival_order_would_depend_on_it() -> None:
    """Power: with a watermark that trusts arrival order the same shuffle changes labels."""
    events = [impression("i", 1_000, "a"), impression("j", 1_010, "a"), click("k", 1_020, "a")]
    disorder = [events[0], events[2], events[1]]
    naive = [last_labels(*play(order, bound=-1)[:2]) for order in (events, disorder)]
    assert naive[0] != naive[1]
    sound = [last_labels(*play(order)[:2]) for order in (events, disorder)]
    assert sound[0] == sound[1]


@JOINS
@settings(max_examples=150, deadline=None)
@given(events=histories(), data=st.data())
def test_every_exposure_closes_once_with_rising_revisions(
    config: Join, events: list[AnyEvent], data: st.DataObject
) -> None:
    """However late events are: one last word per exposure, no exposure twice, nothing kept."""
    delays = [data.draw(st.sampled_from([0, 0, 20, 400, 1_200])) for _ in events]
    exposures, outcomes, join = play(shuffled(events, delays), config=config)
    ids = [e.exposure_id for e in exposures]
    assert len(ids) == len(set(ids))
    assert sorted(o.exposure_id for o in outcomes if o.closed) == sorted(ids)
    for exposure_id in ids:
        own = [o for o in outcomes if o.exposure_id == exposure_id]
        revisions = [o.revision for o in own]
        assert own[-1].closed
        assert revisions in ([0], list(range(1, len(own) + 1)))
    assert len(join) == 0
    assert join.state()["users"] == []


@JOINS
@settings(max_examples=150, deadline=None)
@given(events=histories(), data=st.data())
def test_a_restored_join_goes_on_as_if_nothing_had_happened(
    config: Join, events: list[AnyEvent], data: st.DataObject
) -> None:
    """State through JSON at any point: the same outcomes, the same state."""
    stop = data.draw(st.integers(0, len(events)))
    first = LabelJoin(config)
    first.feed(events[:stop])
    if stop:
        first.advance(events[stop - 1].time_ms - 31)
    second = LabelJoin(config)
    second.restore(json.loads(json.dumps(first.state())))
    for join in (first, second):
        join.feed(events[stop:])
    assert first.advance(1_900) == second.advance(1_900)
    assert first.state() == second.state()
    assert first.advance(END) == second.advance(END)
    assert first.counts == second.counts


@JOINS
@settings(max_examples=100, deadline=None)
@given(events=histories())
def test_outcomes_do_not_depend_on_how_often_the_watermark_moves(
    config: Join, events: list[AnyEvent]
) -> None:
    """Fed whole and advanced once: the same outcomes in the same order."""
    join = LabelJoin(config)
    join.feed(events)
    at_once = join.advance(END).outcomes
    assert at_once == play(events, config=config)[1]
