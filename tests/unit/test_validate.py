"""The report of a file counts what a reader takes, refuses and finds filled."""

from __future__ import annotations

import json
from typing import Any

from stream_mtl.config import Config
from stream_mtl.validate import MAX_UNKNOWN, SHOWN_LINES, validate_file

CLICK = {"type": "click", "event_time": 1_000, "user_id": "u", "item_id": "i"}


def report(*lines: dict[str, Any] | bytes) -> dict[str, Any]:
    raw = [x if isinstance(x, bytes) else json.dumps(x).encode() + b"\n" for x in lines]
    made = validate_file(raw, Config())
    json.dumps(made, allow_nan=False)  # it goes out by --json
    return made


def test_an_empty_file_has_an_empty_report() -> None:
    """No line, or only blank ones, is not an error."""
    made = report(b"\n", b"  \r\n")
    assert (made["records"], made["valid"], made["rejected"]) == (0, 0, 0)
    assert made["time"] == {"first_ms": None, "last_ms": None}


def test_events_and_commands_are_counted_by_type() -> None:
    made = report(
        CLICK, {**CLICK, "user_id": "v"}, {"type": "pause", "command_id": "c", "issued_at": 9}
    )
    assert made["types"] == {"click": 2, "pause": 1}
    assert (made["records"], made["valid"], made["commands"]) == (3, 3, 1)


def test_each_reason_has_its_count_and_first_lines() -> None:
    """Line numbers begin at 1 and count blank lines, as an editor does."""
    bad = [b"{broken\n"] * (SHOWN_LINES + 2)
    made = report(CLICK, b"\n", *bad, {**CLICK, "user_id": 5})
    assert made["rejected"] == SHOWN_LINES + 3
    assert made["reasons"]["not_json"]["count"] == SHOWN_LINES + 2
    lines = [first["line"] for first in made["reasons"]["not_json"]["first"]]
    assert lines == list(range(3, 3 + SHOWN_LINES))
    assert made["reasons"]["field_invalid"]["first"] == [
        {"line": 10, "message": "user_id: expected a string of 1 to 512 characters"}
    ]


def test_coverage_is_the_share_of_filled_fields() -> None:
    """Null is not filled."""
    made = report(CLICK, {**CLICK, "position": 2, "surface": None}, {**CLICK, "position": 3}, CLICK)
    assert made["coverage"]["click"]["position"] == 0.5
    assert made["coverage"]["click"]["user_id"] == 1.0
    assert "surface" not in made["coverage"]["click"]


def test_misspelt_fields_are_named() -> None:
    """They pass, so only this report shows that an optional field never arrives."""
    assert report({**CLICK, "sesion_id": "s"})["unknown_fields"] == {"click": {"sesion_id": 1}}


def test_a_file_whose_keys_are_data_does_not_fill_memory() -> None:
    made = report(*({**CLICK, f"key{n}": 1} for n in range(3 * MAX_UNKNOWN)))
    assert len(made["unknown_fields"]["click"]) == MAX_UNKNOWN


def test_time_span_and_disorder() -> None:
    """Disorder is counted against the newest time so far."""
    made = report(*({**CLICK, "event_time": t} for t in (50, 90, 60, 70, 100)))
    assert made["time"] == {"first_ms": 50, "last_ms": 100}
    assert made["out_of_order"] == 2


def test_duplicates_by_given_id_and_by_content() -> None:
    """The first of them is not a duplicate."""
    named = {**CLICK, "event_id": "e"}
    made = report(CLICK, CLICK, named, {**named, "event_time": 2_000})
    assert made["duplicates"] == {"count": 2, "first_lines": [2, 4]}
