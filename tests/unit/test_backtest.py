"""Backtests: the fold over files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from schemas.scores import SCORES, Tombstone
from stream_mtl.config import Config
from stream_mtl.simulator import as_line, simulate
from workers.backtest import run_backtest
from workers.cli import run
from workers.observer import CutFacts, Silent

EVENTS = 1_200
SUMMARY = {
    "delivery",
    "events_consumed",
    "events_rejected",
    "cuts",
    "steps",
    "example_rows",
    "scored_rows",
    "scores_published",
    "first_score_seconds",
    "events_per_second",
    "state_digest",
    "lineage",
    "last_cut",
    "recall",
    "tasks",
}
TASK = {
    "kind",
    "labels",
    "positives",
    "auc",
    "normalized_entropy",
    "calibration",
    "forgetting",
    "rmse",
    "ndcg",
    "ece",
    "gauc",
    "macro_f1",
    "memory_rows",
}


@pytest.fixture(scope="module")
def config() -> Config:
    return Config.model_validate({"features": {"table_rows": 4096}, "learner": {"batch_rows": 128}})


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    return [as_line(record) + b"\n" for record in simulate("dirty", EVENTS, 3)]


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, config: Config, lines: list[bytes]
) -> tuple[dict[str, Any], Path, Path]:
    """Summary, file of events and file of scores of one undivided run."""
    folder = tmp_path_factory.mktemp("whole")
    events, scores = folder / "events.jsonl", folder / "scores.jsonl"
    events.write_bytes(b"".join(lines))
    return run_backtest(config, [events], scores), events, scores


def test_the_summary_is_what_the_contract_says(whole: tuple[dict[str, Any], Path, Path]) -> None:
    """At least these keys; every line is consumed, poison included."""
    summary, _, _ = whole
    assert set(summary) >= SUMMARY
    assert all(set(task) >= TASK for task in summary["tasks"].values())
    assert (summary["delivery"], summary["events_consumed"]) == ("file", EVENTS)
    assert summary["events_rejected"] > 0
    assert summary["last_cut"] == summary["cuts"] - 1
    json.dumps(summary, allow_nan=False)


def test_the_digest_does_not_depend_on_the_pieces(
    whole: tuple[dict[str, Any], Path, Path], config: Config, lines: list[bytes], tmp_path: Path
) -> None:
    """Ten pieces, every other one compressed: the same state, the same scores."""
    pieces = []
    for i in range(10):
        path = tmp_path / f"{i}.jsonl{'.gz' if i % 2 else ''}"
        part = b"".join(lines[i * EVENTS // 10 : (i + 1) * EVENTS // 10])
        path.write_bytes(gzip.compress(part) if i % 2 else part)
        pieces.append(path)
    scores = tmp_path / "scores.jsonl"
    summary = run_backtest(config, pieces, scores)
    assert summary["state_digest"] == whole[0]["state_digest"]
    assert scores.read_bytes() == whole[2].read_bytes()


def test_another_seed_gives_another_digest(
    whole: tuple[dict[str, Any], Path, Path], config: Config
) -> None:
    """A digest that never differs would say nothing."""
    other = run_backtest(config.model_copy(update={"seed": 1}), [whole[1]])
    assert other["state_digest"] != whole[0]["state_digest"]


def test_scores_are_the_records_of_the_contract(whole: tuple[dict[str, Any], Path, Path]) -> None:
    """Each line is a value with its key; as many as the summary counts."""
    summary, _, scores = whole
    published = 0
    for line in scores.read_bytes().splitlines():
        record = json.loads(line)
        if record["kind"] == "tombstone":
            Tombstone.model_validate(record)
            continue
        name = record[
            "user_id"
            if record["kind"] == "user"
            else {"query": "query", "popular": "domain"}[record["kind"]]
        ]
        assert record["key"] == f"{record['kind']}:{name}"
        assert record["published_at"] == record["event_time"]
        SCORES.validate_python(record)
        published += 1
    assert published == summary["scores_published"] > 0


def test_an_observer_hears_of_every_cut(
    whole: tuple[dict[str, Any], Path, Path], config: Config
) -> None:
    heard: list[int] = []

    class Ear(Silent):
        def cut(self, result: Any, facts: CutFacts) -> None:
            heard.append(result.number)

    run_backtest(config, [whole[1]], observer=Ear())
    assert heard == list(range(whole[0]["cuts"]))


def test_the_verb_prints_one_object(
    whole: tuple[dict[str, Any], Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The same digest in another config of the same values, and nothing else on stdout."""
    settings = ["--set", "features.table_rows=4096", "--set", "learner.batch_rows=128"]
    assert run(["backtest", str(whole[1]), "--json", *settings]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["state_digest"] == whole[0]["state_digest"]
    assert "backtest: running" in said.err


def test_scores_that_cannot_be_written_are_exit_74(
    whole: tuple[dict[str, Any], Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["backtest", str(whole[1]), "--scores", str(tmp_path / "no" / "s.jsonl")]) == 74
    assert "cannot write" in capsys.readouterr().err
