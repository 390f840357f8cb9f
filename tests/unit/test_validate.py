"""The report of a file counts what a reader takes and refuses, and tells what is missing, misspelt, late or twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stream_mtl import validate
from stream_mtl.config import Config
from stream_mtl.cut import Record
from stream_mtl.serde import FILE_TOPIC
from stream_mtl.validate import EXAMPLES, MAX_UNKNOWN, Survey
from workers.cli import run

CLICK = {"type": "click", "event_time": 1_000, "user_id": "u", "item_id": "i"}


def report(*lines: dict[str, Any] | bytes) -> dict[str, Any]:
    survey = Survey(Config())
    for at, line in enumerate(lines):
        value = line if isinstance(line, bytes) else json.dumps(line).encode()
        survey.add(Record(FILE_TOPIC, 0, at, None, value), f"line {at + 1}")
    made = survey.report()
    json.dumps(made, allow_nan=False)  # it goes out by --json
    return made


def test_nothing_has_an_empty_report() -> None:
    made = report()
    assert (made["valid"], made["refused"], made["events"]) == (0, 0, {})
    assert made["time"] == {"first_ms": None, "last_ms": None}


def test_events_and_commands_are_counted_by_type() -> None:
    made = report(
        CLICK, {**CLICK, "user_id": "v"}, {"type": "pause", "command_id": "c", "issued_at": 9}
    )
    assert made["events"] == {"click": 2, "pause": 1}
    assert (made["valid"], made["refused"]) == (3, 0)


def test_each_reason_has_its_count_and_first_places() -> None:
    bad = [b"{broken"] * (EXAMPLES + 2)
    made = report(CLICK, b"", *bad, {**CLICK, "user_id": 5})
    assert made["refused"] == EXAMPLES + 4
    assert made["reasons"]["not_json"]["records"] == EXAMPLES + 3
    places = [example["at"] for example in made["reasons"]["not_json"]["examples"]]
    assert places == [f"line {n}" for n in range(2, 2 + EXAMPLES)]
    assert made["reasons"]["field_invalid"]["examples"] == [
        {"at": "line 10", "message": "user_id: expected a string of 1 to 512 characters"}
    ]


def test_filled_is_the_share_of_records_with_a_field_that_may_be_left_out() -> None:
    """Null is not filled; what every click has says nothing."""
    made = report(CLICK, {**CLICK, "position": 2, "surface": None}, {**CLICK, "position": 3}, CLICK)
    assert made["filled"]["click"]["position"] == 0.5
    assert made["filled"]["click"]["surface"] == 0.0
    assert "user_id" not in made["filled"]["click"]


def test_misspelt_fields_are_named_with_what_was_meant() -> None:
    """They pass, so only this report shows that an optional field never arrives."""
    made = report({**CLICK, "sesion_id": "s", "zzz": 1}, {**CLICK, "sesion_id": "t"})
    assert made["unknown_fields"]["click"] == {
        "sesion_id": {"records": 2, "similar": "session_id"},
        "zzz": {"records": 1, "similar": None},
    }


def test_a_file_whose_keys_are_data_does_not_fill_memory() -> None:
    made = report(*({**CLICK, f"key{n}": 1} for n in range(3 * MAX_UNKNOWN)))
    assert len(made["unknown_fields"]["click"]) == MAX_UNKNOWN


def test_time_span_and_disorder() -> None:
    """Disorder is counted against the newest time so far; a catalogue that is told again is none."""
    item = {"type": "item", "event_time": 20, "item_id": "i"}
    made = report(*({**CLICK, "event_time": t} for t in (50, 90, 60, 70, 100)), item, item)
    assert made["time"] == {"first_ms": 50, "last_ms": 100}
    assert (made["out_of_order"], made["duplicates"]["records"]) == (2, 0)


def test_duplicates_by_given_id_and_by_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of them is not a duplicate. What is remembered to tell is bounded."""
    named = {**CLICK, "event_id": "e"}
    lines = (CLICK, CLICK, named, {**named, "event_time": 2_000})
    assert report(*lines)["duplicates"] == {"records": 2, "examples": ["line 2", "line 4"]}
    monkeypatch.setattr(validate, "MAX_IDS", 1)
    assert report(*lines)["duplicates"] == {"records": 1, "examples": ["line 2"]}


def test_a_person_reads_what_never_comes_and_what_is_misspelt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jsonl"
    lines = [CLICK, {**CLICK, "sesion_id": "s", "position": 1}, CLICK]
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    assert run(["events", "validate", str(path)]) == 0
    said = capsys.readouterr().out
    assert "click at times has position 33%" in said
    assert (
        "click.sesion_id is no field of such an event (records: 1); did you mean session_id?"
        in said
    )
    assert "from 1970-01-01 00:00:01 UTC" in said
    assert f"1 duplicates ({path}:3)" in said
