"""`replay` on a real Kafka: any range of the ledger is rebuilt bit for bit, and the history can be learned anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_mtl.config import Config
from tests.integration.test_control import worker
from tests.integration.test_trainer import answer, stream_mtl

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3_600)]

Run = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def run(
    bootstrap: str, tmp_path_factory: pytest.TempPathFactory, make_config: Callable[..., Config]
) -> Run:
    """A worker that has read a shop to its end; its config file and its summary."""
    folder = tmp_path_factory.mktemp("replay")
    made = make_config(
        bootstrap,
        state=str(folder / "state"),
        cut={"max_records": 200},
        checkpoint={"interval_s": 1, "keep": 20},
        metrics={"address": "off"},
        model={"experts": 2, "hidden": 32},
        gate={"users": 20},
    )
    file = folder / "shop.yaml"
    file.write_text(made.model_dump_json(exclude_unset=True))
    answer(
        stream_mtl(file, "simulate", "--events", "4000", "--seed", "7", "--bootstrap", bootstrap)
    )
    return file, answer(stream_mtl(file, "run", "trainer", "--until-idle"))


def test_the_whole_ledger_is_rebuilt_from_nothing(run: Run, tmp_path: Path) -> None:
    file, summary = run
    proof = answer(stream_mtl(file, "replay", "--from-nothing", "--out", str(tmp_path / "kept")))
    assert (proof["equal"], proof["started_from"]) == (True, "")
    assert proof["compared"] == proof["cuts"] == summary["cuts"]
    assert proof["state_digest"] == summary["state_digest"]
    assert proof["states_compared"] > 0
    (kept,) = (tmp_path / "kept").iterdir()
    assert (
        json.loads((kept / "manifest.json").read_bytes())["state_digest"] == summary["state_digest"]
    )


def test_a_range_begins_at_the_checkpoint_before_it(run: Run) -> None:
    file, summary = run
    listed = answer(stream_mtl(file, "ckpt", "ls"))["checkpoints"]
    middle = listed[len(listed) // 2]
    assert middle["cut"] < summary["last_cut"], "the run was too short for two checkpoints"
    first = middle["cut"] + 1
    proof = answer(stream_mtl(file, "replay", "--first", str(first), "--last", str(first)))
    assert (proof["equal"], proof["compared"]) == (True, 1)
    assert proof["started_from"] == middle["name"]


def test_other_settings_cannot_prove_anything(run: Run) -> None:
    file, _ = run
    refused = stream_mtl(file, "replay", "--set", "optimizer.dense_lr=0.5")
    assert refused.returncode == 65
    assert "config keys that change the fold differ" in refused.stderr


def test_a_range_beyond_the_ledger_is_named(run: Run) -> None:
    file, summary = run
    refused = stream_mtl(file, "replay", "--first", "100000")
    assert refused.returncode == 78
    assert f"the ledger holds 0 to {summary['last_cut']}" in refused.stderr


def test_the_history_is_learned_anew_and_the_gate_judges(run: Run) -> None:
    """The same settings from scratch are the same model; worse ones are told apart from it."""
    file, summary = run
    same = answer(stream_mtl(file, "replay", "--from-scratch"))
    assert (same["first"], same["last"]) == (0, summary["last_cut"])
    assert same["judged"]["click"] > 0
    assert same["verdict"] == "hold back"  # not surely better: it is the same
    assert any("click: 0.0" in reason or "click" in reason for reason in same["reasons"])
    worse = answer(stream_mtl(file, "replay", "--from-scratch", "--set", "optimizer.dense_lr=0.3"))
    assert worse["lineage"] != same["lineage"]
    assert worse["state_digest"] != same["state_digest"]
    assert worse["verdict"] == "hold back"


def test_a_challenger_is_put_in_place_on_a_running_worker(run: Run) -> None:
    """What it has learned comes in, the lineage says so, and the ledger stays provable over it."""
    file, summary = run
    made = answer(stream_mtl(file, "replay", "--from-scratch", "--set", "optimizer.dense_lr=0.002"))
    with worker(file):
        unknown = stream_mtl(file, "control", "promote", "--lineage", "nobody", "--wait", "600")
        assert unknown.returncode == 65
        assert "there is no challenger 'nobody'" in unknown.stderr + unknown.stdout
        done = answer(
            stream_mtl(file, "control", "promote", "--lineage", made["lineage"], "--wait", "600")
        )
    assert done["done"] is True
    assert done["checkpoint"]["name"] == f"challengers/{made['checkpoint']}"
    after = answer(stream_mtl(file, "run", "trainer", "--until-idle"))
    assert after["lineage"] not in (summary["lineage"], made["lineage"])
    assert after["events_consumed"] == summary["events_consumed"] + 2  # the two commands
    report = answer(stream_mtl(file, "ledger", "verify"))
    # the lineage's one checkpoint is of its last cut: there is nothing to fold from it, the proof folds from nothing
    assert (report["gaps"], report["overlaps"], report["digest_equal"]) == (0, 0, None)
    proof = answer(stream_mtl(file, "replay", "--from-nothing"))
    assert proof["equal"] is True
