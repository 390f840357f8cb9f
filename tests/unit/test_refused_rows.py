"""Rows of a step that was not finite are seen by somebody: dead letters of kind `example`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from stream_mtl import build
from stream_mtl.batch import Batch
from stream_mtl.config import Config
from stream_mtl.cut import Cut, CutResult, Record, Reject
from stream_mtl.errors import NumericError
from stream_mtl.hashing import hash64
from stream_mtl.pipeline import Pipeline
from stream_mtl.refused_rows import MOST, events_behind, of_step
from stream_mtl.serde import decode
from stream_mtl.step_report import StepReport
from stream_mtl.testing_rows import SPEC, rows
from tests.folds import shop_cuts, small

BAD = 3  # good steps before the bad ones


def poisoned(config: Config, bad_steps: int) -> Pipeline:
    """A fold that meets rows with a number that is not finite, after the same steps every time."""
    model = build(config, "test")
    learner = model.parts.learner
    step = learner.step

    def bad_or_good(batch: Batch) -> StepReport:
        if learner.version == BAD and learner.skipped < bad_steps:
            batch = replace(batch, prior_B=batch.prior_B * float("nan"))
        return step(batch)

    learner.step = bad_or_good  # type: ignore[method-assign]
    return model


def fold(model: Pipeline, cuts: Sequence[Cut]) -> list[CutResult]:
    return [model.step(cut) for cut in cuts]


@pytest.fixture(scope="module")
def stream() -> list[Cut]:
    return shop_cuts(small(), 2_000)


def letters(results: Sequence[CutResult]) -> list[Reject]:
    return [r for result in results for r in result.rejects if r.stage == "learner"]


def test_the_rows_are_dead_letters_and_the_ledger_says_how_many(stream: list[Cut]) -> None:
    """The model of the step before goes on; letters are bounded, the count is whole."""
    model = poisoned(small(), 1)
    results = fold(model, stream)
    told = letters(results)
    assert 0 < len(told) <= MOST
    (decision,) = [d for r in results for d in r.decisions if d["kind"] == "nonfinite_step"]
    assert decision["step"] == BAD
    assert decision["rows"] == sum(r.counts.get("nonfinite_rows", 0) for r in results) >= len(told)
    value = json.loads(told[0].record.value or b"")
    assert value["kind"] == "example"
    assert set(value["labels"]) <= set(small().tasks)
    assert (told[0].reason, told[0].record.topic) == ("nonfinite", "")
    assert model.parts.learner.version > BAD


def test_a_roll_forward_gives_the_same_letters_and_the_same_state(stream: list[Cut]) -> None:
    first, second = poisoned(small(), 2), poisoned(small(), 2)
    assert letters(fold(first, stream)) == letters(fold(second, stream))
    assert first.state_digest() == second.state_digest()


def test_several_in_a_row_stop_the_worker_and_empty_no_stream(stream: list[Cut]) -> None:
    """Then it is the state that is at fault, not the rows."""
    model = poisoned(small(learner={"max_nonfinite": 3}), 10**9)
    told = 0
    stopped = False
    for cut in stream:
        try:
            told += len(letters([model.step(cut)]))
        except NumericError:
            stopped = True
            break
    assert stopped
    assert told <= 2 * MOST


def test_no_user_id_is_told(stream: list[Cut]) -> None:
    users = {u for u in (_user(r) for cut in stream for r in cut.records) if u}
    assert users
    for reject in letters(fold(poisoned(small(), 1), stream)):
        text = (reject.record.value or b"").decode()
        assert not any(f'"{user}"' in text for user in users)


def test_a_hundred_rows_a_step_are_told() -> None:
    assert len(of_step(rows(MOST + 28), 1, SPEC.tasks, {})) == MOST


def test_a_label_that_is_not_finite_is_told_as_none() -> None:
    """The letter is JSON, which has no word for it."""
    batch = rows(1)
    label_BT = torch.full_like(batch.label_BT, float("inf"))
    bad = replace(batch, label_BT=label_BT, mask_BT=torch.ones_like(batch.mask_BT))
    (reject,) = of_step(bad, 1, SPEC.tasks, {})
    assert set(json.loads(reject.record.value or b"")["labels"].values()) == {None}


def test_the_event_behind_a_row_is_named_where_it_lies_in_the_same_cut(stream: list[Cut]) -> None:
    config = small()
    record = stream[0].records[0]
    event: Any = decode(record, config.source, config.topics)
    behind = events_behind(stream[0], config)
    key = hash64(event.event_id)
    assert behind[key] == (record.topic, record.partition, record.offset)
    batch = rows(1)
    mine = replace(batch, list_key_B=torch.tensor([key]))
    (reject,) = of_step(mine, 1, SPEC.tasks, behind)
    assert json.loads(reject.record.value or b"")["record"] == list(behind[key])


def _user(record: Record) -> str | None:
    try:
        user = json.loads(record.value or b"").get("user_id")
    except (ValueError, AttributeError):
        return None
    return user if isinstance(user, str) and len(user) > 3 else None
