"""The simulated shop: reproducible, valid on the wire, and true to its own probabilities."""

from __future__ import annotations

import itertools
import json
import math
import tracemalloc
from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.events import ADAPTER, EVENTS
from stream_mtl.simulator import (
    SCENARIOS,
    Simulated,
    as_line,
    phase_at,
    season_phases,
    simulate,
    truth_lines,
)
from stream_mtl.simulator.poison import KINDS, OVERSIZED_BYTES

MINUTE, HOUR = 60_000, 3_600_000
CLICK_WINDOW, PURCHASE_WINDOW = 10 * MINUTE, 24 * HOUR
START_2024 = 1_704_067_200_000


def good(records: list[Simulated]) -> list[dict[str, Any]]:
    """The JSON of the good records; withdrawals have none."""
    return [json.loads(r.value) for r in records if r.value is not None and r.poison is None]


@pytest.fixture(scope="module")
def steady() -> list[Simulated]:
    return list(simulate("steady", 50_000, seed=1))


@pytest.fixture(scope="module")
def delayed() -> list[Simulated]:
    return list(simulate("delayed", 50_000, seed=1))


def labels_by_last_touch(
    records: list[Simulated], by_request: bool
) -> dict[tuple[str, str], tuple[int, int]]:
    """(exposure event, item) -> (clicked, bought): a join of our own, by request id or by last touch."""
    requests: dict[str, str] = {}
    shown: dict[tuple[str, str], tuple[str, int]] = {}  # (user, item) -> newest exposure, its time
    times: dict[str, int] = {}
    label: dict[tuple[str, str], list[int]] = {}
    for record in records:
        if record.poison or record.value is None or record.topic_kind == "items":
            continue
        event, time = json.loads(record.value), record.event_time
        user = event["user_id"]
        if record.truth:
            requests[event["request_id"]], times[record.event_id] = record.event_id, time
            for item_id, *_ in record.truth:
                shown[user, item_id] = record.event_id, time
                label[record.event_id, item_id] = [0, 0]
        if event["type"] not in ("click", "view", "add_to_cart", "purchase"):
            continue
        item_id, asked = event["item_id"], event.get("request_id")
        exposure = requests[asked] if by_request and asked else shown[user, item_id][0]
        age = time - times[exposure]
        if event["type"] == "purchase":
            label[exposure, item_id][1] |= age <= PURCHASE_WINDOW
        else:
            label[exposure, item_id][0] |= age <= CLICK_WINDOW
    return {key: (c, b) for key, (c, b) in label.items()}


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_the_same_seed_gives_the_same_bytes_and_a_longer_run_starts_with_a_shorter_one(
    name: str,
) -> None:
    """A run is a pure function of scenario and seed, and `events` only says where it is cut off."""
    short, long = list(simulate(name, 1_500, seed=7)), list(simulate(name, 3_000, seed=7))
    assert len(long) == 3_000
    assert long[:1_500] == short
    assert list(simulate(name, 1_500, seed=8)) != short


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_records_come_in_time_order_from_the_first_of_january(name: str) -> None:
    """The first record is of 2024-01-01T00:00:00Z, and time never runs backwards."""
    times = [record.event_time for record in simulate(name, 3_000, seed=0)]
    assert times[0] == START_2024
    assert times == sorted(times)


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_every_good_record_is_valid_on_the_wire_and_keyed_by_its_owner(name: str) -> None:
    """The wire models accept each good record, whose fields repeat what stands beside it."""
    for record in simulate(name, 4_000, seed=2):
        if record.poison or record.value is None:
            continue
        ADAPTER.validate_json(record.value)
        event = json.loads(record.value)
        owner = event["item_id"] if event["type"] == "item" else event["user_id"]
        assert record.key == owner.encode()
        assert (record.topic_kind == "items") == (event["type"] == "item")
        assert event["event_time"] == record.event_time
        assert event["event_id"] == record.event_id


def test_every_type_of_event_occurs_and_no_id_twice(steady: list[Simulated]) -> None:
    """50,000 records of the steady shop hold every event type, withdrawals included."""
    assert {event["type"] for event in good(steady)} == set(EVENTS)
    assert any(record.value is None for record in steady)
    assert len({record.event_id for record in steady}) == len(steady)


def test_twenty_thousand_records_span_three_purchase_windows_and_not_a_week(
    steady: list[Simulated],
) -> None:
    """Long enough for purchases to mature, short enough for daily rhythms to be learned."""
    span = steady[19_999].event_time - steady[0].event_time
    assert 3 * PURCHASE_WINDOW <= span <= 7 * 24 * HOUR


def test_items_are_announced_before_they_are_shown_and_never_shown_while_out_of_stock(
    steady: list[Simulated],
) -> None:
    """Whoever reads the log in order knows each shown item, and that it can be bought."""
    available: dict[str, bool] = {}
    for record in steady:
        if record.topic_kind == "items":
            assert record.key is not None
            value = json.loads(record.value) if record.value is not None else {"available": False}
            available[record.key.decode()] = value["available"]
        for item_id, *_ in record.truth or ():
            assert available[item_id]
    assert not all(available.values())


def test_the_truth_belongs_to_the_items_of_the_record_in_their_places(
    steady: list[Simulated],
) -> None:
    """Truth rows are in the order of the exposure, and a purchase is never likelier than a click."""
    for record in steady[:20_000]:
        event = json.loads(record.value) if record.value is not None else {}
        assert (record.truth is not None) == bool(event.get("items"))
        for shown, row in zip(event.get("items", ()), record.truth or (), strict=True):
            assert (shown["item_id"], shown["position"]) == (row[0], row[3])
            assert 0 < row[2] < row[1] < 1


@pytest.mark.parametrize("name", ["steady", "delayed"])
@pytest.mark.parametrize("by_request", [True, False], ids=["request-id", "last-touch"])
def test_labels_happen_as_often_as_the_truth_says(
    name: str, by_request: bool, steady: list[Simulated], delayed: list[Simulated]
) -> None:
    """However touches are attributed, sums of labels stay within four standard deviations of the truth's.

    Also in each tenth of the predicted probabilities. Only exposures whose windows have closed count.
    """
    records = {"steady": steady, "delayed": delayed}[name]
    label = labels_by_last_touch(records, by_request)
    end = records[-1].event_time - PURCHASE_WINDOW
    rows = [
        (p_click, p_buy, *label[record.event_id, item_id])
        for record in records
        if record.event_time < end
        for item_id, p_click, p_buy, _ in record.truth or ()
    ]
    assert len(rows) > 100_000
    for task in (0, 1):
        pairs = sorted((row[task], row[2 + task]) for row in rows)
        tenth = len(pairs) // 10
        for group in (pairs, *(pairs[k * tenth : (k + 1) * tenth] for k in range(10))):
            expected = sum(p for p, _ in group)
            deviation = math.sqrt(sum(p * (1 - p) for p, _ in group))
            assert abs(sum(y for _, y in group) - expected) < 4 * deviation


def test_a_truth_that_forgets_the_purchase_window_is_noticed(
    delayed: list[Simulated],
) -> None:
    """The calibration check has power: without the late share, `delayed` would be 30 % off."""
    label = labels_by_last_touch(delayed, by_request=True)
    end = delayed[-1].event_time - PURCHASE_WINDOW
    naive = [
        (p_buy / 0.754, label[record.event_id, item_id][1])  # P(delay <= 23 h 50) = 0.754
        for record in delayed
        if record.event_time < end
        for item_id, _, p_buy, _ in record.truth or ()
    ]
    excess = sum(p - y for p, y in naive)
    assert excess > 3 * math.sqrt(sum(p * (1 - p) for p, _ in naive))


def test_clicks_and_purchases_are_as_frequent_as_in_a_shop(steady: list[Simulated]) -> None:
    """5 to 12 % of shown items are clicked, 8 to 15 % of the clicks end in a purchase."""
    truth = [row for record in steady for row in record.truth or ()]
    clicks, purchases = sum(row[1] for row in truth), sum(row[2] for row in truth)
    assert 0.05 < clicks / len(truth) < 0.12
    assert 0.08 < purchases / clicks < 0.15


def test_one_record_in_ten_of_the_dirty_shop_is_bad_in_every_way() -> None:
    """All kinds of poison occur; what the models should refuse, they refuse."""
    records = list(simulate("dirty", 20_000, seed=0))
    kinds = Counter(record.poison for record in records if record.poison)
    assert set(kinds) == set(KINDS)
    assert 0.085 < sum(kinds.values()) / len(records) < 0.115
    valid = {"far_past", "far_future", "duplicate", "oversized"}  # refused for other reasons
    for record in records:
        if record.poison is None or record.poison in valid:
            continue
        with pytest.raises(ValidationError):
            ADAPTER.validate_json(record.value or b"null")
    assert any(len(record.value or b"") > 1_000_000 for record in records)
    assert sum(len(record.value or b"") > OVERSIZED_BYTES for record in records) < 20


def test_poison_does_not_touch_the_good_records() -> None:
    """A duplicate repeats the record before it; all other poison speaks of nobody's user."""
    before: Simulated | None = None
    for record in simulate("dirty", 5_000, seed=0):
        if record.poison == "duplicate":
            assert before is not None
            assert (record.value, record.event_id) == (before.value, before.event_id)
            assert record.truth is None
        elif record.poison:
            assert record.key == b"u-poison"
        before = record


def test_season_shows_one_domain_at_a_time_and_the_first_returns() -> None:
    """`season_phases` says what is shown when; sessions that began before a change may end after it."""
    phases = season_phases(6)
    assert [domain for *_, domain in phases[:4]] == ["fashion", "beauty", "electronics", "fashion"]
    seen: Counter[tuple[int, str]] = Counter()
    users: dict[int, set[str]] = {0: set(), 3: set()}
    for record in simulate("season", 32_000, seed=0):
        if not record.truth or record.value is None:
            continue
        event = json.loads(record.value)
        number, _ = phase_at(record.event_time)
        assert phases[number][0] <= record.event_time < phases[number][1]
        seen[number, event["domain"]] += 1
        users.get(number, set()).add(event["user_id"])
    for number in range(3):
        total = sum(count for (phase, _), count in seen.items() if phase == number)
        assert seen[number, phases[number][2]] > 0.98 * total
    assert len(users[0] & users[3]) > 0.3 * len(users[3])


def test_launch_brings_new_items_every_hour_and_shows_them() -> None:
    """Long after the opening, items announced within the last day are a good part of what is shown."""
    records = list(simulate("launch", 40_000, seed=0))
    born: dict[str, int] = {}
    fresh = shown = 0
    for record in records:
        if record.topic_kind == "items" and record.key is not None:
            born.setdefault(record.key.decode(), record.event_time)
        if record.event_time > records[0].event_time + 100 * HOUR:
            for item_id, *_ in record.truth or ():
                shown += 1
                fresh += record.event_time - born[item_id] < 24 * HOUR
    hours = Counter(time // HOUR for time in born.values())
    assert min(hours[h] for h in range(START_2024 // HOUR + 1, START_2024 // HOUR + 90)) >= 1
    assert fresh > 0.2 * shown


def test_a_file_has_a_line_for_each_record(steady: list[Simulated]) -> None:
    """A withdrawal becomes an item that is not available: files have no keys and no nulls."""
    withdrawn = next(record for record in steady if record.value is None)
    item = json.loads(as_line(withdrawn))
    ADAPTER.validate_json(as_line(withdrawn))
    assert (item["type"], item["available"]) == ("item", False)
    for record in simulate("dirty", 3_000, seed=0):
        assert b"\n" not in as_line(record)


def test_the_truth_file_has_one_line_for_each_shown_item(steady: list[Simulated]) -> None:
    """Lines name the exposure, the item, its place and both probabilities."""
    lines = [json.loads(line) for line in truth_lines(steady[:2_000])]
    rows = [(r.event_id, *row) for r in steady[:2_000] for row in r.truth or ()]
    assert rows == [
        (x["event_id"], x["item_id"], x["p_click"], x["p_purchase"], x["position"]) for x in lines
    ]


def test_memory_does_not_grow_with_the_run() -> None:
    """The simulator streams: what it holds after 12,000 more records has grown by little."""
    records = simulate("season", 1_000_000, seed=0)
    for _ in itertools.islice(records, 10_000):  # the catalogue is still filling before
        pass
    tracemalloc.start()
    try:
        for _ in itertools.islice(records, 12_000):
            pass
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 2_000_000


def test_an_unknown_scenario_is_refused_at_once() -> None:
    """The name is looked up when `simulate` is called, before the first record is asked for."""
    with pytest.raises(KeyError):
        simulate("winter", 10, seed=0)


@pytest.mark.parametrize("name", ["attack", "attack_many"])
def test_an_attack_leaves_the_honest_events_as_they_are(name: str) -> None:
    """What an attack costs is measured on the same rows: byte for byte those of the shop without it."""
    records = list(simulate(name, 3_000, seed=4))
    honest = [record for record in records if not record.attack]
    assert honest == list(simulate("steady", len(honest), seed=4))
    sent = sum(record.attack for record in records)
    events = sum(record.topic_kind == "events" for record in honest)
    assert sent in (events, events - 1)
    assert all(record.truth is None for record in records if record.attack)


def test_the_loud_attacker_is_one_id_and_the_quiet_ones_are_many() -> None:
    loud, many = (
        {record.key for record in simulate(name, 6_000, seed=4) if record.attack}
        for name in ("attack", "attack_many")
    )
    assert len(loud) == 1
    assert len(many) > 500


def test_the_attacker_clicks_and_buys_what_it_promotes_and_nothing_that_it_hides() -> None:
    events = [
        json.loads(r.value) for r in simulate("attack", 4_000, seed=4) if r.attack and r.value
    ]
    shown = {e["request_id"]: [i["item_id"] for i in e["items"]] for e in events if "items" in e}
    promoted = {e["item_id"] for e in events if e["type"] == "purchase"}
    clicked = [e for e in events if e["type"] == "click" and "request_id" in e]
    assert len(promoted) == 20
    assert {e["item_id"] for e in clicked} <= promoted
    assert sum(not promoted & set(items) for items in shown.values()) == 0
