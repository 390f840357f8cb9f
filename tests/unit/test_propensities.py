"""`events propensities` and `ckpt propensities`: what a shop sets `tasks.X.propensities` to."""

from __future__ import annotations

import json
import math
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stream_mtl import build
from stream_mtl.checkpoint import CheckpointStore
from stream_mtl.propensity import learned
from stream_mtl.snapshot import snapshot
from tests.checkpoints import identity
from tests.folds import Fold, shop_cuts, small
from workers.cli import run

THETA = (1.0, 0.6, 0.4, 0.25)  # how likely a place is looked at
LIKED = (0.5, 0.3, 0.2, 0.1)  # how likely an item that is looked at is clicked
LISTS = 6_000
START_MS = 1_704_067_200_000


def lists(surface: str, shuffled: bool) -> Iterator[dict[str, Any]]:
    """Impressions and clicks of one surface: items in random order, or the best ones first."""
    chance = random.Random(surface)
    for n in range(LISTS):
        items = list(range(len(LIKED)))
        if shuffled:
            chance.shuffle(items)
        who = {"user_id": f"u{n}", "request_id": f"{surface}{n}"}
        time_ms = START_MS + 10_000 * n
        shown = [{"item_id": f"i{i}", "position": place} for place, i in enumerate(items, 1)]
        told = {"type": "impression", "surface": surface, "items": shown}
        yield {**told, **who, "event_time": time_ms}
        for theta, item in zip(THETA, items, strict=True):
            if chance.random() < theta * LIKED[item]:
                clicked = {"type": "click", "item_id": f"i{item}", "event_time": time_ms + 1_000}
                yield {**clicked, **who}


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shop that shuffles half of its lists, and says so by their surface."""
    path = tmp_path_factory.mktemp("events") / "a.jsonl"
    made = sorted(
        [*lists("home", shuffled=False), *lists("shuffled", shuffled=True)],
        key=lambda event: event["event_time"],
    )
    path.write_text("".join(json.dumps(event) + "\n" for event in made))
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_shuffled_lists_tell_how_likely_each_place_is_looked_at(
    events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = told(capsys, "events", "propensities", str(events), "--surface", "shuffled")
    assert found["shown"] == [LISTS] * len(THETA)
    assert found["propensities"] == pytest.approx(THETA, abs=0.05)


def test_where_better_items_stand_higher_they_are_taken_for_the_place(
    events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The naive way, all lists: why there is `--surface`."""
    found = told(capsys, "events", "propensities", str(events))
    assert found["shown"] == [2 * LISTS] * len(THETA)
    assert all(
        theta < true - 0.05
        for theta, true in zip(found["propensities"][1:], THETA[1:], strict=True)
    )


def test_a_surface_without_lists_is_an_error_that_names_those_there_are(
    events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["events", "propensities", str(events), "--surface", "shufled"]) == 78
    assert f"home ({LISTS}), shuffled ({LISTS})" in capsys.readouterr().err


def test_what_a_person_reads_is_a_setting(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["events", "propensities", str(events), "--surface", "shuffled"])
    setting = capsys.readouterr().out.splitlines()[-1]
    assert tomllib.loads(setting)["propensities"] == pytest.approx(THETA, abs=0.05)


def test_a_learned_position_bias_is_told_per_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The simulated shop shows lists with places, whose clicks thin out."""
    config = small()
    model = build(config)
    for cut in shop_cuts(config, 6_000):
        model.step(cut)
    CheckpointStore(tmp_path).save(snapshot(model.state()), identity(1), "a1", 1)
    where = ("--set", f"checkpoint.store=file://{tmp_path}")
    found = told(capsys, "ckpt", "propensities", *where)["tasks"]
    assert set(found) == {"click", "search"}  # purchases follow clicks, wherever these stood
    assert found["click"][0] == 1.0
    assert all(0 < theta < 1 for theta in found["click"][1:])
    assert min(found["click"]) < 0.8


def test_a_task_that_a_command_added_is_told_too() -> None:
    """The state knows its tasks; the configuration may not."""
    added = {"type": "add_task", "task": "open", "kind": "binary", "label": "click"}
    said = json.dumps({**added, "command_id": "c", "issued_at": 1}).encode()
    fold = Fold(small())
    fold.outputs([said])
    state = fold.model.state()
    place = state["evaluation/tasks"].index("open")
    for name in state:
        if name.endswith(f"heads.{place}.position_bias"):
            state[name][1:4] = torch.tensor([0.0, -0.05, -0.1])
    assert learned(state)["open"] == pytest.approx((1.0, math.exp(-0.5), math.exp(-1.0)))


def test_a_fold_that_has_seen_no_places_has_none_to_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CheckpointStore(tmp_path).save(snapshot(build(small()).state()), identity(1), "a1", 1)
    assert run(["ckpt", "propensities", "--set", f"checkpoint.store=file://{tmp_path}"]) == 78
    assert "position = 'bias'" in capsys.readouterr().err
