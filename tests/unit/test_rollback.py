"""A rollback takes what was learned from an earlier state, and nothing else; commands do not move event time."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from stream_mtl import build
from stream_mtl.config import Config
from stream_mtl.cut import Cut, Range, Record, RollbackTarget
from stream_mtl.errors import StateError
from stream_mtl.files import cuts_of_records
from stream_mtl.pipeline import Pipeline
from stream_mtl.rollback import is_learned
from stream_mtl.simulator import as_line, simulate
from stream_mtl.state import State, canonical_json
from tests.folds import NOON, as_records, small
from tests.unit.test_task_set import CART, command, decisions, kept

EVENTS = 600
BEGUN_AGAIN = ("towers/vectors/generation", "publish_gate/rows/", "publish_gate/labels")
LEARNED = {
    "learner/affinity",
    "learner/average",
    "learner/balancer",
    "learner/dense",
    "learner/mode",
    "learner/model",
    "learner/rates",
    "learner/regularizer",
    "learner/rehearsal",
    "learner/fine_tuning/version_T",
    "learner/skipped_in_a_row",
    "learner/table",
    "learner/table_RH",
    "learner/trust",
    "publish_gate/age",
    "publish_gate/champion",
    "publish_gate/held",
    "towers/map_DD",
    "towers/map_square_DD",
    "towers/square_R",
    "towers/steps",
    "towers/table_RD",
}
KEPT = {
    "learner/fine_tuning/newest",
    "learner/memory",
    "learner/sampler",
    "learner/skipped",
    "learner/version",
    "publish_gate/labels",
    "publish_gate/rows",
    "publish_gate/windows",
    "towers/frequency",
    "towers/seen",
    "towers/vectors",
    "towers/visits",
    "towers/waiting",
}


@pytest.fixture(scope="module")
def config() -> Config:
    return small(
        learner={"batch_rows": 64, "first_rows": 64},
        join={"click_window_ms": 60_000, "purchase_window_ms": 1_200_000, "late_ms": 60_000},
        gate={"publish": True},
        retrieval={"learned": True, "batch": 8, "again": 8},
        fine_tune={"tasks": ["click"]},
        balancer={"name": "famo"},
        rehearsal={"loss": "lwf"},
    )


def stream(config: Config, *commands: bytes, at: int = EVENTS // 2) -> list[Cut]:
    lines = [as_line(one) for one in simulate("steady", EVENTS, 3)]
    return list(cuts_of_records(as_records([*lines[:at], *commands, *lines[at:]]), config))


def part_of(name: str) -> str:
    deep = 3 if name.startswith("learner/fine_tuning") else 2
    return "/".join(name.split("/")[:deep])


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(), other.nan_to_num())
    return canonical_json(one) == canonical_json(other)


def folded(config: Config, cuts: list[Cut]) -> Pipeline:
    model = build(config, "test")
    for cut in cuts:
        model.step(cut)
    return model


@pytest.fixture(scope="module")
def past(config: Config) -> tuple[list[Cut], int, State]:
    """Cuts, and the state in the middle of them."""
    cuts = stream(config)
    middle = len(cuts) // 2
    return cuts, middle, kept(folded(config, cuts[:middle]))


def test_what_was_learned_goes_back_and_all_else_stays(
    config: Config, past: tuple[list[Cut], int, State]
) -> None:
    cuts, middle, saved = past
    model = folded(config, cuts[:-4])
    before = kept(model)
    model.roll_back(saved, middle - 1)
    after = kept(model)
    changed = {part_of(name) for name in before if not equal(before[name], after[name])}
    assert {"learner/model", "learner/table_RH", "learner/dense", "learner/average"} <= changed
    assert {"learner/balancer", "learner/trust", "towers/table_RD"} <= changed
    for name, value in after.items():
        if name == "pipeline/orders/discarded":
            assert value == [[middle - 1, len(cuts) - 5]]
        elif is_learned(name):
            assert equal(value, saved[name]), name
        elif not name.startswith(BEGUN_AGAIN):
            assert equal(value, before[name]), name


def test_a_fold_that_went_back_goes_on_bit_for_bit_from_its_checkpoint(
    config: Config, past: tuple[list[Cut], int, State]
) -> None:
    cuts, middle, saved = past
    model = folded(config, cuts[:-4])
    model.roll_back(saved, middle - 1)
    again = build(config, "test")
    again.restore(kept(model))
    assert again.state_digest() == model.state_digest()
    ahead, restored = ([one.step(cut).digest for cut in cuts[-4:]] for one in (model, again))
    straight = folded(config, cuts[:-4])
    assert ahead == restored
    assert ahead != [straight.step(cut).digest for cut in cuts[-4:]]
    assert again.state_digest() == model.state_digest()


def test_every_part_that_learns_is_on_one_side(config: Config) -> None:
    """Fails when a part of the learner, the towers or the gate is new: decide, and write it down here."""
    state = build(config, "test").state()
    ours = [n for n in state if n.startswith(("learner/", "towers/", "publish_gate/"))]
    learned = {part_of(name) for name in ours if is_learned(name)}
    stays = {part_of(name) for name in ours if not is_learned(name)}
    assert learned <= LEARNED
    assert stays <= KEPT
    assert not [n for n in state if is_learned(n) and n not in ours]


def test_a_task_that_was_added_since_begins_anew(
    config: Config, past: tuple[list[Cut], int, State]
) -> None:
    _, middle, saved = past
    cuts = stream(config, CART)
    model = folded(config, cuts[:-4])
    assert model.fits(saved) == ["cart"]
    head = kept(model)["learner/model/heads.3.out.weight"]
    model.roll_back(saved, middle - 1)
    assert list(model.config.tasks)[-1] == "cart"
    after = kept(model)
    assert not equal(after["learner/model/heads.3.out.weight"], head)
    assert equal(
        after["learner/model/heads.0.out.weight"], saved["learner/model/heads.0.out.weight"]
    )
    for cut in cuts[-4:]:
        model.step(cut)


@pytest.mark.parametrize(
    "other",
    [
        {"model": {"name": "shared_bottom"}},
        {"gate": {"publish": False}},
        {"features": {"table_rows": 2_048}},
        {"tasks": {"click": {"kind": "binary"}, "search": {"kind": "listwise", "label": "search"}}},
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_nothing_changes(
    config: Config, past: tuple[list[Cut], int, State], other: dict[str, Any]
) -> None:
    cuts, middle, _ = past
    changed = Config.model_validate(config.model_dump(exclude_unset=True) | other)
    theirs = build(changed, "test").state()
    model = folded(config, cuts[:middle])
    digest = model.state_digest()
    with pytest.raises(StateError, match="the checkpoint"):
        model.fits(theirs)
    with pytest.raises(StateError, match="the checkpoint"):
        model.roll_back(theirs, 3)
    assert model.state_digest() == digest


def test_the_decision_names_the_checkpoint_and_a_second_rollback_of_a_cut_is_refused(
    config: Config,
) -> None:
    first, second = command("rollback"), command("rollback", cut=3)
    cuts = stream(config, first, second, at=300)[:8]
    ids = [json.loads(one)["command_id"] for one in (first, second)]
    target = RollbackTarget("000000000003-k1", 3, "ab", ("cart",))
    model = build(config, "test")
    results = [
        model.step(Cut(c.number, c.records, c.ranges, c.published_at, dict.fromkeys(ids, target)))
        for c in cuts
    ]
    done, refused = decisions(results)
    assert done == {
        "kind": "rollback",
        "command_id": ids[0],
        "done": True,
        "checkpoint": "000000000003-k1",
        "checkpoint_cut": 3,
        "state_digest": "ab",
        "afresh": ["cart"],
    }
    assert "in the same cut already" in str(refused["reason"])


def cut_of(config: Config, number: int, moved: dict[int, int] | None, said: bytes = b"") -> Cut:
    """One click in each partition of `moved` (its time), or a command alone."""
    topic, control = config.topics.events[0], config.topics.control
    records, ranges = [], []
    for partition in (0, 1):
        time = (moved or {}).get(partition)
        if time is not None:
            click = {"type": "click", "event_time": time, "user_id": "u", "item_id": "i"}
            value = json.dumps(click | {"event_id": f"{number}/{partition}"}).encode()
            records.append(Record(topic, partition, number, b"u", value, time))
        ranges.append(Range(topic, partition, number, number + (time is not None), 0, ""))
    if said:
        records.append(Record(control, 0, number, None, said, NOON))
    ranges.append(Range(control, 0, number, number + bool(said), 0, ""))
    return Cut(number, tuple(records), tuple(ranges), NOON)


def test_cuts_of_commands_alone_do_not_move_event_time(config: Config) -> None:
    """Else a partition would be idle because of commands, and the watermark would pass events that wait there."""
    late, early = NOON + 100_000, NOON
    model = build(config, "test")
    model.step(cut_of(config, 0, {0: early, 1: late}))
    before = model.parts.watermark.value
    idle = config.cut.idle_cuts
    model.step(cut_of(config, 1, {1: late}))
    for number in range(2, 2 + 2 * idle):
        said = command("pause", note=str(number))
        model.step(cut_of(config, number, None, said))
    assert model.orders.paused
    assert model.parts.watermark.value == before
    # the naive variant counts those cuts too: the partition that is behind goes idle, and time passes it
    partitions = [(config.topics.events[0], 0), (config.topics.events[0], 1)]
    for _ in range(idle - 1):
        model.parts.watermark.observe({(config.topics.events[0], 1): late}, partitions)
    assert model.parts.watermark.value > before
