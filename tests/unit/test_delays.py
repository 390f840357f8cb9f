"""Provisional labels on their way: from the join over features into the learner, and to nobody who judges."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from stream_mtl import build
from stream_mtl.config import Config, Join
from stream_mtl.delays import DELAYS
from stream_mtl.errors import ConfigError
from stream_mtl.events import AnyEvent, Click, Impression, Outcome, Purchase, Refund, Shown
from stream_mtl.join_state import UserJoin
from stream_mtl.label_join import LabelJoin
from stream_mtl.labels import joining
from stream_mtl.learner import Learner
from stream_mtl.provisional import (
    LATE_YES,
    MATURE_LATE,
    MATURE_NO,
    MATURE_YES,
    SEEN_NO,
    SEEN_YES,
)
from stream_mtl.state import State, digest
from stream_mtl.testing_rows import SPEC, rows
from tests.folds import shop_cuts, small

WINDOWS = Join(
    click_window_ms=100, purchase_window_ms=1_000, late_ms=500, dedup_ms=300, out_of_order_ms=0
)
FUNNEL: dict[str, Any] = {"kind": "funnel", "after": "click"}


def tasks(delay: str = "es_dfm", **more: Any) -> dict[str, Any]:
    return {"click": {"kind": "binary"}, "purchase": {**FUNNEL, "delay": delay, **more}}


def impression(time_ms: int, *items: str) -> Impression:
    shown = tuple(Shown(item_id=item, position=i + 1) for i, item in enumerate(items))
    return Impression(event_id=f"i{time_ms}", time_ms=time_ms, user_id="u", items=shown)


def click(time_ms: int, item: str) -> Click:
    return Click(event_id=f"c{time_ms}", time_ms=time_ms, user_id="u", item_id=item)


def purchase(time_ms: int, item: str) -> Purchase:
    at = str(time_ms)
    return Purchase(
        event_id=f"p{at}", time_ms=time_ms, user_id="u", item_id=item, order_id=f"o{at}"
    )


def refund(time_ms: int, item: str, order: int) -> Refund:
    return Refund(
        event_id=f"r{time_ms}", time_ms=time_ms, user_id="u", item_id=item, order_id=f"o{order}"
    )


def outcomes(*events: AnyEvent, wait: int = 0, resume_at: int = -1) -> list[Outcome]:
    """All that the join says; the state goes through JSON before event number `resume_at`."""
    config = Config.model_validate({"tasks": tasks(early_ms=wait)})
    join, said = LabelJoin(joining(WINDOWS, config.tasks)), []
    for number, event in enumerate(events):
        if number == resume_at:
            state = json.loads(json.dumps(join.state()))
            join = LabelJoin(joining(WINDOWS, config.tasks))
            join.restore(state)
        said += join.feed([event]).outcomes
        said += join.advance(event.time_ms).outcomes
    return said + list(join.advance(10_000).outcomes)


def purchases(said: list[Outcome]) -> list[tuple[int, bool, tuple[float | None, ...]]]:
    """(time, provisional, labels) of everything said of purchases."""
    return [
        (o.time_ms, o.provisional, o.labels["purchase"]) for o in said if "purchase" in o.labels
    ]


def test_a_provisional_label_goes_out_with_the_clicks_and_again_when_something_is_bought() -> None:
    said = outcomes(impression(0, "a", "b"), click(10, "a"), purchase(400, "a"))
    assert purchases(said) == [
        (100, True, (0.0, 0.0)),
        (400, True, (1.0, None)),
        (1_000, False, (1.0, 0.0)),
    ]
    assert [o.revision for o in said] == list(range(1, len(said) + 1))


def test_a_wait_puts_the_provisional_label_off_and_lets_it_see_more() -> None:
    said = outcomes(
        impression(0, "a", "b"), click(10, "a"), purchase(200, "a"), purchase(600, "b"), wait=300
    )
    assert purchases(said) == [
        (300, True, (1.0, 0.0)),
        (600, True, (None, 1.0)),
        (1_000, False, (1.0, 1.0)),
    ]


def test_a_click_that_nothing_had_shown_is_told_of_at_once_or_after_its_wait() -> None:
    assert purchases(outcomes(click(10, "a"), purchase(400, "a"))) == [
        (10, True, (0.0,)),
        (400, True, (1.0,)),
        (1_010, False, (1.0,)),
    ]
    assert purchases(outcomes(click(10, "a"), wait=50))[0] == (60, True, (0.0,))


def test_the_second_order_of_an_item_is_no_news() -> None:
    said = outcomes(impression(0, "a"), purchase(400, "a"), purchase(500, "a"))
    assert [time_ms for time_ms, _, _ in purchases(said)] == [100, 400, 1_000]


def test_a_purchase_that_arrives_after_the_window_corrects_the_final_label() -> None:
    config = Config.model_validate({"tasks": tasks()})
    join = LabelJoin(joining(WINDOWS, config.tasks))
    join.feed([impression(0, "a")])
    join.advance(1_100)
    join.feed([purchase(900, "a")])
    (late,) = join.advance(1_200).outcomes
    assert (late.correction, late.provisional, late.labels) == (True, False, {"purchase": (1.0,)})


@pytest.mark.parametrize("at", range(5))
def test_a_join_that_stops_anywhere_says_the_same(at: int) -> None:
    events = (
        impression(0, "a", "b"), click(10, "a"), purchase(400, "a"), refund(500, "a", 400), purchase(700, "b"),
    )  # fmt: skip
    assert outcomes(*events, wait=300, resume_at=at) == outcomes(*events, wait=300)


def test_final_labels_are_those_of_the_join_without_provisional_ones() -> None:
    events = (impression(0, "a", "b"), click(10, "a"), purchase(400, "a"), purchase(1_300, "b"))
    plain = LabelJoin(WINDOWS)
    said = [o for event in events for o in (*plain.feed([event]).outcomes, *plain.advance(event.time_ms).outcomes)]  # fmt: skip
    said += plain.advance(10_000).outcomes
    kept = [o for o in outcomes(*events, wait=300) if not o.provisional]
    assert [replace(o, revision=0) for o in kept] == [replace(o, revision=0) for o in said]
    assert not any(o.provisional for o in said)


def test_the_state_of_a_waiting_exposure_survives_json() -> None:
    join = LabelJoin(joining(WINDOWS, Config.model_validate({"tasks": tasks(early_ms=300)}).tasks))
    join.feed([impression(0, "a")])
    join.advance(150)
    (user,) = join.state()["users"]
    assert UserJoin.from_json(json.loads(json.dumps(user))).to_json() == user


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"early_ms": 86_400_000}, "does not end before"),
        ({"label": "click"}, "come early anyway"),
    ],
)
def test_a_wait_that_cannot_be_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Config.model_validate({"tasks": tasks(**more)}), "test")


def test_tasks_that_wait_differently_are_refused() -> None:
    both = {**tasks(), "cart": {**FUNNEL, "delay": "fnw", "early_ms": 5}}
    with pytest.raises(ConfigError, match="same early_ms"):
        build(Config.model_validate({"tasks": both}), "test")


@pytest.mark.parametrize(
    "task", [{"kind": "listwise"}, {"kind": "binary", "listwise": 1.0}, {**FUNNEL, "correction": "dr"}]
)  # fmt: skip
def test_a_kind_that_has_no_provisional_loss_is_refused(task: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="provisional labels are for"):
        Config.model_validate({"tasks": {"click": {"kind": "binary"}, "purchase": {**task, "delay": "fnw"}}})  # fmt: skip


# ---- the learner

LEARNED = replace(SPEC, tasks=("click", "purchase"))


def learner(delay: str) -> Learner:
    settings = {
        "tasks": tasks(delay),
        "model": {"embedding_dim": 4, "experts": 2, "hidden": 16, "tower": 8},
        "memory": {"rows": 200},
    }
    return Learner(LEARNED, Config.model_validate(settings), torch.device("cpu"))


def coded(first: int, count: int = 60) -> Any:
    """Rows with click labels as they are and every code in turn as what is told of the purchase."""
    batch = rows(count, first=first, spec=LEARNED)
    label_BT = batch.label_BT.clone()
    label_BT[:, 1] = torch.arange(count) % 6 + SEEN_NO
    return replace(batch, label_BT=label_BT)


def saved(state: State) -> dict[str, Any]:
    return {
        name: value.clone() if isinstance(value, torch.Tensor) else json.loads(json.dumps(value))
        for name, value in state.items()
    }


@pytest.mark.parametrize("delay", DELAYS)
@pytest.mark.parametrize("stop", [0, 1, 4])
def test_a_learner_that_stops_anywhere_goes_on_to_the_bit(delay: str, stop: int) -> None:
    straight, resumed = learner(delay), learner(delay)
    for step in range(6):
        if step == stop:
            resumed.restore(saved(straight.state()))
        report = straight.step(coded(60 * step))
        if step >= stop:
            assert resumed.step(coded(60 * step)) == report
    assert digest(resumed.state()) == digest(straight.state())


@pytest.mark.parametrize("delay", DELAYS)
def test_memory_and_base_rate_know_true_labels_only_and_each_row_once(delay: str) -> None:
    model = learner(delay)
    batch = coded(0)
    model.step(batch)
    held = {k: v for k, v in model.state().items() if k.startswith("memory/purchase/")}
    mature_B = batch.label_BT[:, 1] >= MATURE_NO
    assert model.memory_rows()["purchase"] == int(mature_B.sum())
    (label_R,) = [v for k, v in held.items() if "label" in k]
    assert sorted(set(label_R[:30].flatten().tolist())) == [0.0, 1.0]
    assert float(model.state()["rates/sums_2T"][0, 1]) == 2 / 3 * float(mature_B.sum())
    assert float(model.state()["rates/sums_2T"][1, 1]) == float(mature_B.sum())


# ---- the whole stream


def delayed_shop(delay: str, **more: Any) -> Config:
    return small(
        tasks={"click": {"kind": "binary"}, "purchase": {**FUNNEL, "delay": delay, **more}},
        join={"purchase_window_ms": 6 * 3_600_000, "late_ms": 1_800_000},
    )


def fold(config: Config, events: int = 2_500) -> Any:
    """The pipeline, and (codes of purchases, how often) that were taught."""
    model = build(config, "test")
    taught: dict[float, int] = {}
    step = model.parts.learner.step

    def noted(batch: Any) -> Any:
        for code in batch.label_BT[batch.mask_BT[:, 1], 1].tolist():
            taught[code] = taught.get(code, 0) + 1
        return step(batch)

    model.parts.learner.step = noted  # type: ignore[method-assign]
    for cut in shop_cuts(config, events, "delayed"):
        model.step(cut)
    return model, taught


@pytest.fixture(scope="module")
def window() -> Any:
    return fold(delayed_shop("window"))


@pytest.mark.parametrize("delay", ["es_dfm", "fnw"])
def test_a_shop_is_judged_by_the_same_labels_whatever_it_learns_from(
    delay: str, window: Any
) -> None:
    """Provisional labels teach, and are counted nowhere: as many labels and positives as with the window."""
    model, taught = fold(delayed_shop(delay))
    plain, plain_taught = window
    for name in ("labels", "positives"):
        assert model.quality()["purchase"][name] == plain.quality()["purchase"][name]
        assert model.quality()["purchase"][name] > 0
    assert set(plain_taught) == {0.0, 1.0}
    assert {SEEN_NO, LATE_YES, MATURE_NO, MATURE_LATE} <= set(taught)
    assert taught[SEEN_NO] > taught[MATURE_NO]  # the last window's labels are still to come
    assert taught[LATE_YES] >= taught[MATURE_LATE]
    assert taught.get(SEEN_YES, 0) >= taught.get(MATURE_YES, 0)


def test_a_shop_with_provisional_labels_stops_anywhere_and_goes_on_to_the_bit() -> None:
    config = delayed_shop("es_dfm", early_ms=3_600_000)
    stream = shop_cuts(config, 1_500, "delayed")
    straight, resumed = build(config, "test"), build(config, "test")
    for number, cut in enumerate(stream):
        if number == len(stream) // 2:
            resumed.restore(saved(straight.state()))
        result = straight.step(cut)
        if number >= len(stream) // 2:
            assert resumed.step(cut).digest == result.digest
    assert resumed.state_digest() == straight.state_digest()
