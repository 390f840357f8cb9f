"""Who gets a list, when, and of what."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.scores import SCORES
from stream_mtl import build
from stream_mtl.config import DAY, HOUR, Config
from stream_mtl.errors import ConfigError
from tests.folds import NOON, Fold, line, shop_cuts, small


def item(number: int, time_ms: int = NOON, **fields: Any) -> bytes:
    return line(
        "item", time_ms, item_id=f"i{number}", title=f"thing {number}", domain="toys",
        category="all", price=10.0, **fields,
    )  # fmt: skip


def click(user: str, number: int, time_ms: int) -> bytes:
    return line("click", time_ms, user_id=user, item_id=f"i{number}", domain="toys")


def opened(**sections: Any) -> Fold:
    """A shop of ten items, each clicked by somebody."""
    fold = Fold(small(**sections))
    fold.cut(*(item(n) for n in range(10)))
    fold.cut(*(click(f"early{n}", n, NOON + n) for n in range(10)))
    return fold


def listed(record: dict[str, Any] | None, surface: str = "home") -> list[str]:
    assert record is not None
    return [entry["item_id"] for entry in record["lists"][surface]]


def test_a_user_gets_a_list_with_the_cut_that_holds_their_event() -> None:
    """Best value first, of other items than the one just looked at."""
    record = opened().cut(click("ann", 1, NOON + 1_000))["user:ann"]
    assert record is not None
    values = [entry["value"] for entry in record["lists"]["home"]]
    assert values == sorted(values, reverse=True)
    assert values
    assert "i1" not in listed(record)


def test_a_second_list_waits_until_five_seconds_of_event_time_are_over() -> None:
    """The event is not lost: the list goes out with the first cut late enough, asked for or not."""
    fold = opened()
    assert "user:ann" in fold.cut(click("ann", 1, NOON + 1_000))
    assert "user:ann" not in fold.cut(click("ann", 2, NOON + 3_000))
    later = fold.cut(click("bob", 3, NOON + 6_000))
    assert "i2" not in listed(later["user:ann"])  # knows of the click that had to wait


def test_the_interval_is_counted_from_the_list_and_not_from_the_event() -> None:
    """4,999 ms are too early, 5,000 ms are not."""
    fold = opened()
    fold.cut(click("ann", 1, NOON + 1_000))
    assert "user:ann" not in fold.cut(click("ann", 2, NOON + 5_999))
    assert "user:ann" in fold.cut(click("ann", 3, NOON + 6_000))


def test_a_user_who_stays_away_gets_a_tombstone_once() -> None:
    """After their time to live; the next cuts say nothing more of them."""
    fold = opened(features={"user_ttl_ms": DAY})
    fold.cut(click("ann", 1, NOON + 1_000))
    later = fold.cut(click("bob", 2, NOON + 2 * DAY))
    assert later["user:ann"] is None
    assert later["user:bob"] is not None
    assert "user:ann" not in fold.cut(click("bob", 3, NOON + 4 * DAY - HOUR))


def test_a_query_that_nobody_asks_any_more_gets_a_tombstone() -> None:
    """Its list came when it was asked."""
    fold = opened(features={"query_ttl_ms": DAY})
    asked = line("search", NOON + 1_000, user_id="ann", query="Red  Thing", domain="toys")
    assert listed(fold.cut(asked)["query:red thing"], "search")
    assert fold.cut(click("bob", 2, NOON + 2 * DAY))["query:red thing"] is None


def test_strangers_get_the_popular_list_of_a_domain_and_of_the_shop() -> None:
    """The most clicked first, `value` its share of the demand."""
    fold = opened()
    out = fold.cut(*(click(f"u{n}", 7, NOON + HOUR + n) for n in range(20)))
    for key in ("popular:toys", "popular:"):
        record = out[key]
        assert listed(record)[0] == "i7"
        assert record is not None
        values = [entry["value"] for entry in record["lists"]["home"]]
        assert values == sorted(values, reverse=True)
        assert abs(sum(values) - 1) < 1e-3


def test_quiet_users_are_scored_again_beside_active_ones() -> None:
    """Those scored longest ago first: their lists follow the shop although they do nothing."""
    fold = opened(scoring={"quiet_users": 2})
    out = fold.cut(click("ann", 1, NOON + HOUR), click("bob", 2, NOON + HOUR))
    quiet = [key for key in out if key.startswith("user:early")]
    assert quiet == ["user:early0", "user:early1"]


def test_a_quiet_user_waits_out_the_interval_too() -> None:
    """In a small shop those scored longest ago were scored just now."""
    fold = Fold()
    fold.cut(*(item(k, NOON + k) for k in range(9)), click("ann", 1, NOON + 10))
    soon = fold.cut(click("bob", 2, NOON + 300))
    assert ("user:bob" in soon, "user:ann" in soon) == (True, False)
    later = fold.cut(click("bob", 3, NOON + 60_000))
    assert "user:ann" in later


def test_an_item_that_may_not_be_sold_is_in_no_list_from_its_cut_on() -> None:
    """Out of stock, withdrawn: not for users, not for queries, not for strangers; back when it is back."""
    fold = opened()
    asked = line("search", NOON + 61_000, user_id="cat", query="thing 7", domain="toys")
    out = fold.cut(item(7, NOON + 60_000, available=False), click("ann", 1, NOON + 61_000), asked)
    for key, record in out.items():
        surface = "search" if key.startswith("query:") else "home"
        assert "i7" not in listed(record, surface), key
    again = fold.cut(item(7, NOON + 120_000, available=True), click("ann", 2, NOON + 121_000))
    assert "i7" in listed(again["user:ann"])


def test_every_output_of_a_day_in_the_shop_is_a_valid_score_record() -> None:
    """Keys, kinds and fields as the schema promises; items once a list, at most as many as configured."""
    config = small()
    fold = Fold(config).model
    kinds = set()
    for cut in shop_cuts(config, 1_500):
        for output in fold.step(cut).outputs:
            if output.value is None:
                continue
            record = SCORES.validate_json(output.value, strict=True)
            kinds.add(record.kind)
            name = {"user": "user_id", "query": "query", "popular": "domain"}[record.kind]
            assert output.key == f"{record.kind}:{getattr(record, name)}"
            assert record.model.cut == cut.number
            for entries in record.lists.model_dump().values():
                ids = [entry["item_id"] for entry in entries]
                assert len(set(ids)) == len(ids) <= config.scoring.published
    assert kinds == {"user", "query", "popular"}


MANY = {
    "click": {"kind": "binary"},
    "cart": {"kind": "funnel", "after": "click"},
    "purchase": {"kind": "funnel", "after": "cart"},
    "dwell": {"kind": "regression", "label": "dwell_ms", "log": True, "center": 8.0},
    "gender": {"kind": "multiclass", "label": "profile.gender", "values": ["f", "m"]},
    "region": {"kind": "multiclass", "label": "profile.region", "classes": 6},
}


def test_what_is_said_of_a_user_stands_beside_the_lists_and_not_in_them() -> None:
    """A probability for each value by its name; items carry the scores of tasks that speak of items."""
    fold = opened(tasks=MANY)
    fold.cut(line("profile", NOON + 500, user_id="bob", attributes={"region": "north"}))
    record = fold.cut(click("ann", 1, NOON + 1_000))["user:ann"]
    assert record is not None
    assert set(record["user_scores"]) == {"gender", "region"}
    assert set(record["user_scores"]["gender"]) == {"f", "m"}
    assert sum(record["user_scores"]["gender"].values()) == pytest.approx(1, abs=1e-5)
    assert set(record["user_scores"]["region"]) == {"north"}  # the only value that has come
    assert set(record["lists"]["home"][0]["scores"]) == {
        "click", "cart", "purchase", "dwell", "cart_given_click", "purchase_given_cart",
    }  # fmt: skip


def test_a_fold_of_many_tasks_publishes_valid_records_and_goes_on_bit_for_bit() -> None:
    config = small(tasks=MANY, learner={"batch_rows": 64, "first_rows": 64})
    stream = shop_cuts(config, 900)
    one, two = build(config, "test"), build(config, "test")
    half = len(stream) // 2
    for cut in stream[:half]:
        one.step(cut)
    two.restore(one.state())
    for cut in stream[half:]:
        result = one.step(cut)
        for output in result.outputs:
            if output.value is not None:
                SCORES.validate_json(output.value)
        assert two.step(cut).digest == result.digest
    assert one.state_digest() == two.state_digest()
    assert one.totals["steps"] > 3


def test_a_weight_for_something_that_is_not_scored_is_refused() -> None:
    """And so is a shop without any task that could rank a list."""
    with pytest.raises(ConfigError, match=r"scoring\.value\.klick.*click"):
        build(small(scoring={"value": {"klick": 1.0}}), "test")
    gender = {"gender": MANY["gender"]}
    with pytest.raises(ConfigError, match="nothing to be ranked by"):
        build(Config.model_validate({"tasks": gender}), "test")


def test_default_weights_count_as_far_as_there_are_such_tasks() -> None:
    config = small(tasks={"cart": {"kind": "binary"}})
    fold = Fold(config)
    fold.cut(*(item(n) for n in range(10)))
    fold.cut(*(click(f"early{n}", n, NOON + n) for n in range(10)))
    assert len(listed(fold.cut(click("ann", 1, NOON + 1_000))["user:ann"])) > 3


def test_a_score_record_that_no_topic_takes_is_left_out_and_told() -> None:
    """One user with endless lists must not block the cut; the ledger says that something is missing."""
    config = small(scoring={"max_record_bytes": 400})
    cuts = shop_cuts(config, 1_200)
    bounded, whole = build(config, "t"), build(small(), "t")
    results = [(bounded.step(cut), whole.step(cut)) for cut in cuts]
    for some, all_ in results:
        fitting = [o.key for o in all_.outputs if len(o.value or b"") <= 400]
        assert [o.key for o in some.outputs] == fitting
        told = sum(int(str(d["records"])) for d in some.decisions if d["kind"] == "score_too_large")
        assert told == len(all_.outputs) - len(fitting)
    assert sum(len(all_.outputs) for _, all_ in results) > 0
