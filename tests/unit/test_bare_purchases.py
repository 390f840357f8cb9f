"""A purchase of what its user was never shown and never clicked: learned from, or not, and always counted."""

from __future__ import annotations

import pytest

from stream_mtl.config import Join
from stream_mtl.events import AnyEvent
from tests.unit.test_label_join import CONFIG, END, click, impression, play, purchase

IGNORE = Join(**{**CONFIG.model_dump(), "bare_purchases": "ignore"})


def bought(events: list[AnyEvent], config: Join) -> int:
    """Positive purchase labels."""
    _, outcomes, _ = play(events, config=config)
    return sum(value == 1.0 for outcome in outcomes for value in outcome.labels.get("purchase", ()))


def test_it_is_a_positive_label_only_where_the_shop_says_so() -> None:
    events: list[AnyEvent] = [purchase("p1", 1_000, "a")]
    assert bought(events, CONFIG) == 1
    assert bought(events, IGNORE) == 0
    exposures, outcomes, join = play(events, config=IGNORE)
    assert not exposures
    assert not outcomes
    assert join.counts["bare_purchases"] == 1


@pytest.mark.parametrize(
    "before",
    [impression("i1", 900, "b", "a"), click("c1", 900, "a")],
    ids=["shown", "clicked"],
)
def test_a_purchase_after_an_exposure_or_a_click_counts(before: AnyEvent) -> None:
    events = [before, purchase("p1", 1_000, "a")]
    assert bought(events, IGNORE) == bought(events, CONFIG) == 1
    assert play(events, config=IGNORE)[2].counts["bare_purchases"] == 0


def test_an_exposure_that_arrives_after_its_purchase_within_the_disorder_explains_it() -> None:
    events = [purchase("p1", 1_000, "a"), impression("i1", 990, "a", "b")]
    assert bought(events, IGNORE) == 1


def test_it_is_counted_where_it_is_learned_from_too() -> None:
    events: list[AnyEvent] = [purchase("p1", 1_000, "a"), purchase("p2", END - 5_000, "a")]
    assert play(events)[2].counts["bare_purchases"] == 2


def test_another_item_does_not_explain_it() -> None:
    assert bought([impression("i1", 900, "b"), purchase("p1", 1_000, "a")], IGNORE) == 0
