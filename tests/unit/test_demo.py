"""The demo: everything in one process, on the embedded broker."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from workers.cli import run


def test_the_demo_learns_publishes_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All events are committed, a subscriber sees lists with titles, and the promise is said aloud."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    small = [
        "features.table_rows=4096",
        "memory.rows=512",
        "text.model=none",
        "learner.batch_rows=128",
    ]
    settings = [argument for text in small for argument in ("--set", text)]
    assert run(["demo", "--events", "1500", "--json", "--debug", *settings]) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert summary["delivery"] == "at_least_once"
    assert summary["events_consumed"] == 1_500
    assert summary["scores_published"] > 0
    assert summary["steps"] > 0
    assert summary["first_score_seconds"] > 0
    assert "first score after" in said.err
    assert "at_least_once, and everything is forgotten" in said.err
    assert "user:" in said.err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_scenario_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--scenario", "circus"]) == 64
    assert "steady, season" in capsys.readouterr().err
