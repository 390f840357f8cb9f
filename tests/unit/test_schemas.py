"""The wire models, their JSON Schema files and the golden examples say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

import schemas
from schemas import control, events, generate, scores
from stream_mtl.config import Task

FOLDER = Path(schemas.__file__).parent
EXAMPLES = FOLDER / "examples"
INVALID = sorted((EXAMPLES / "invalid").glob("*.json"))
# What a pattern cannot say: these pass the JSON Schema and are refused by the models.
BEYOND_JSON_SCHEMA = {"event_time_no_such_day"}


def example(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((EXAMPLES / f"{name}.v1.json").read_text())
    return record


def schema_of(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((FOLDER / "json" / f"{name}.v1.json").read_text()))


def wire_names(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """Fields by the name that they have in a record."""
    return {info.alias or name: info for name, info in model.model_fields.items()}


def test_the_committed_schemas_are_what_the_models_say() -> None:
    """Regenerating changes no file, misses none and leaves none over."""
    assert generate.differing(FOLDER / "json") == []


def test_a_stale_a_missing_and_a_foreign_schema_file_are_all_named(tmp_path: Path) -> None:
    """The check would notice each way of being out of date."""
    generate.write(tmp_path)
    assert generate.differing(tmp_path) == []
    (tmp_path / "click.v1.json").write_text("{}")
    (tmp_path / "item.v1.json").unlink()
    (tmp_path / "wishlist.v1.json").write_text("{}")
    assert generate.differing(tmp_path) == ["click.v1.json", "item.v1.json", "wishlist.v1.json"]


def test_there_is_one_example_for_every_record() -> None:
    """Neither a record without an example nor an example of nothing."""
    assert {p.name for p in EXAMPLES.glob("*.json")} == {f"{n}.v1.json" for n in generate.RECORDS}


@pytest.mark.parametrize("name", sorted(generate.RECORDS))
def test_the_golden_example_passes_model_and_schema(name: str) -> None:
    """What we show producers is taken, and the schema file agrees."""
    generate.RECORDS[name].model_validate_json(json.dumps(example(name)))
    schema_of(name).validate(example(name))
    Draft202012Validator.check_schema(schema_of(name).schema)


@pytest.mark.parametrize("name", sorted(generate.RECORDS))
def test_the_golden_example_shows_every_field(name: str) -> None:
    """A field that no example shows is a field that nobody tries; `note` and alternatives aside."""
    hidden = wire_names(generate.RECORDS[name]).keys() - example(name).keys()
    assert hidden <= {"note", "query", "context", "session_id", "variant"}


@pytest.mark.parametrize("name", sorted(generate.RECORDS))
def test_unknown_fields_pass_and_missing_ones_are_refused(name: str) -> None:
    """A producer may add fields at any time; leaving a required one out is an error in model and schema."""
    model, record = generate.RECORDS[name], example(name)
    model.model_validate_json(json.dumps({**record, "added_later": {"a": [1]}}))
    schema_of(name).validate({**record, "added_later": {"a": [1]}})
    for field, info in wire_names(model).items():
        if info.is_required():
            without = {k: v for k, v in record.items() if k != field}
            with pytest.raises(ValidationError):
                model.model_validate_json(json.dumps(without))
            assert not schema_of(name).is_valid(without), field


@pytest.mark.parametrize("name", sorted({**events.EVENTS, **control.COMMANDS}))
def test_a_changed_type_is_refused(name: str) -> None:
    """No field of an input takes a list of lists in place of its value, in model and schema alike."""
    model, record = generate.RECORDS[name], example(name)
    for field in record:
        changed = {**record, field: [[None]]}
        with pytest.raises(ValidationError):
            model.model_validate_json(json.dumps(changed))
        assert not schema_of(name).is_valid(changed), field


@pytest.mark.parametrize("path", INVALID, ids=lambda p: p.stem)
def test_invalid_examples_have_a_closed_reason_and_fail_the_schema(path: Path) -> None:
    """Where JSON Schema can say what is wrong, it says so too."""
    case = json.loads(path.read_text())
    assert case["reason"] in set(scores.Reason)
    assert case["why"]
    record = case["record"]
    name = record.get("type") if isinstance(record, dict) else None
    if name in generate.RECORDS:
        assert schema_of(name).is_valid(record) == (path.stem in BEYOND_JSON_SCHEMA)


def test_the_adapters_choose_by_type() -> None:
    """One adapter reads all events, one all commands, and the name in `type` decides."""
    for name, event in events.EVENTS.items():
        assert type(events.ADAPTER.validate_json(json.dumps(example(name)))) is event
    for name, command in control.COMMANDS.items():
        assert type(control.ADAPTER.validate_json(json.dumps(example(name)))) is command


def test_times_are_milliseconds_whatever_way_they_were_written() -> None:
    """Integer and RFC 3339 with offset give one integer; fractions round down."""
    for text in ("2024-01-01T12:00:00.250+02:00", "2024-01-01t10:00:00.2509Z"):
        record = {**example("click"), "event_time": text}
        assert events.ADAPTER.validate_json(json.dumps(record)).event_time == 1_704_103_200_250


def test_models_are_frozen() -> None:
    """A record cannot change on its way."""
    event = events.ADAPTER.validate_json(json.dumps(example("click")))
    with pytest.raises(ValidationError, match="frozen"):
        event.event_time = 1  # type: ignore[misc]


def test_a_user_score_has_a_home_list() -> None:
    """Subscribers may rely on `lists.home`; other surfaces may stand beside it."""
    record = example("score_user")
    record["lists"]["ad"] = record["lists"]["home"]
    read = scores.SCORES.validate_json(json.dumps(record))
    assert read.model_dump()["lists"]["ad"][0]["item_id"] == "i-2"
    del record["lists"]["home"]
    with pytest.raises(ValidationError, match="home"):
        scores.SCORES.validate_json(json.dumps(record))


def test_a_ledger_record_has_no_place_for_a_user() -> None:
    """The ledger outlives erasure, so no field of it may name a user."""
    assert not [n for n in scores.LedgerRecord.model_fields if "user" in n]
    assert "user_id" not in json.dumps(scores.LedgerRecord.model_json_schema())


def test_the_reasons_are_pinned() -> None:
    """They are metric labels and header words: growth must be seen in review."""
    assert set(scores.Reason) == {
        "magic_byte",
        "schema_unknown",
        "schema_invalid",
        "not_json",
        "not_utf8",
        "too_large",
        "null_value",
        "type_unknown",
        "wrong_topic",
        "field_missing",
        "field_invalid",
        "time_out_of_range",
        "nonfinite",
        "crash",
    }


def test_a_task_can_be_added_with_whatever_the_configuration_knows_of_one() -> None:
    """What `add_task` had no field for was dropped without a word."""
    own = control.AddTask.model_fields.keys() - control.ControlCommand.model_fields.keys()
    assert own - {"type", "task"} == Task.model_fields.keys()
