"""Where settings come from, and what is said of a wrong one."""

from __future__ import annotations

import tomllib
import traceback
from pathlib import Path

import jsonschema
import pytest

from stream_mtl.config import Config
from stream_mtl.config_file import leaves
from stream_mtl.errors import ConfigError
from workers import settings, starter


def _file(tmp_path: Path, text: str, name: str = "shop.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def _shown(found: settings.Settings) -> dict[str, settings.Effective]:
    return {row.key: row for row in settings.effective(found)}


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(
    tmp_path: Path,
) -> None:
    """Each layer sets one key less, so that every order of strength shows."""
    file = _file(tmp_path, "[cut]\ninterval_ms = 1\nmax_records = 1\nfile_span_ms = 1\n")
    environment = {"SMTL_CUT__INTERVAL_MS": "2", "SMTL_CUT__MAX_RECORDS": "2", "HOME": "/x"}
    found = settings.load(file, environment, [settings.assignment("cut.interval_ms=3")])
    cut = found.config.cut
    assert (cut.interval_ms, cut.max_records, cut.file_span_ms) == (3, 2, 1)
    assert cut.idle_cuts == Config().cut.idle_cuts
    rows = _shown(found)
    assert rows["cut.interval_ms"].origin == "flag --set cut.interval_ms"
    assert rows["cut.max_records"].origin == "environment SMTL_CUT__MAX_RECORDS"
    assert rows["cut.file_span_ms"].origin == f"{file}:4"
    assert rows["cut.idle_cuts"].origin == "default"


def test_a_preset_of_a_verb_is_weaker_than_the_file(tmp_path: Path) -> None:
    file = _file(tmp_path, 'app = "mine"\n')
    found = settings.load(file, {}, [], [("app", "demo", "demo"), ("state", "tmp", "demo")])
    assert (found.config.app, found.config.state) == ("mine", "tmp")


@pytest.mark.parametrize(
    "name,text",
    [("a.toml", '[topics]\nevents = ["a", "b"]\n'), ("a.yaml", "topics:\n  events: [a, b]\n")],
)
def test_toml_and_yaml_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    found = settings.load(_file(tmp_path, text, name))
    assert found.config.topics.events == ("a", "b")
    assert _shown(found)["topics.events"].origin.endswith(f"{name}:2")


def test_an_unknown_key_is_refused_with_its_place_and_the_nearest_valid_one(tmp_path: Path) -> None:
    file = _file(tmp_path, "[cut]\nintervall_ms = 1\n")
    with pytest.raises(ConfigError, match=r"cut\.intervall_ms.*shop\.toml:2.*cut\.interval_ms"):
        settings.load(file)
    with pytest.raises(ConfigError, match=r"SMTL_CUT__INTERVALL_MS.*mean cut.interval_ms"):
        settings.load(None, {"SMTL_CUT__INTERVALL_MS": "1"})


def test_a_key_in_the_wrong_section_leads_to_the_right_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean learner\.batch_rows"):
        settings.load(flags=[settings.assignment("model.batch_rows=3")])


def test_a_mistyped_value_says_key_expected_found_and_origin_for_every_fault(
    tmp_path: Path,
) -> None:
    """All faults come at once, and not as pydantic prints them."""
    file = _file(
        tmp_path, '[cut]\ninterval_ms = "soon"\nmax_records = 0\n[kafka]\ndelivery = "x"\n'
    )
    with pytest.raises(ConfigError) as caught:
        settings.load(file)
    said = str(caught.value).splitlines()
    assert len(said) == 3
    assert "cut.interval_ms: expected a valid integer" in said[1]
    assert said[1].endswith(f"found 'soon' ({file}:2)")
    assert "greater than 0, found 0" in said[2]
    assert "'exactly_once' or 'at_least_once', found 'x'" in said[0]
    assert "validation error" not in str(caught.value)


def test_settings_that_do_not_fit_together_are_named_without_the_whole_section(
    tmp_path: Path,
) -> None:
    file = _file(tmp_path, '[tasks.click]\nimbalance = "focal"\n[gate]\ncalibration = [1.1, 0.9]\n')
    with pytest.raises(ConfigError) as caught:
        settings.load(file)
    said = sorted(str(caught.value).splitlines())
    assert "gate.calibration: expected a lower bound below 1" in said[0]
    assert f"found [1.1, 0.9] ({file}:4)" in said[0]
    assert "tasks.click: imbalance = 'focal' goes neither with `listwise`" in said[1]
    assert "found" not in said[1]


@pytest.mark.parametrize(
    "task,fault",
    [
        ('kind = "binary"\nafter = "click"', "after = 'click': it is for kind 'funnel'"),
        ('kind = "regression"\nlistwise = 0.3', "listwise = 0.3: it is for kind 'binary'"),
        ('kind = "listwise"\nsmoothing = 0.1', "'binary' or 'multiclass'"),
        ('kind = "binary"\nlog = true', "log = True: it is for kind 'regression'"),
        ('kind = "binary"\nearly_ms = 5', "choose a `delay`"),
    ],
)
def test_what_a_task_s_kind_has_not_is_refused(tmp_path: Path, task: str, fault: str) -> None:
    """It would do nothing, and who set it would believe that it does."""
    with pytest.raises(ConfigError) as caught:
        settings.load(_file(tmp_path, f"[tasks.cart]\n{task}\n"))
    assert fault in str(caught.value)


def test_a_default_task_of_another_kind_leaves_what_that_has_not(tmp_path: Path) -> None:
    """`after` of the default purchase task was not asked for. Said anew, it is refused."""
    config = settings.load(_file(tmp_path, '[tasks.purchase]\nkind = "binary"\n')).config
    assert (config.tasks["purchase"].after, config.tasks["purchase"].weight) == (None, 0.1)
    config = settings.load(flags=[("tasks.click.kind", "listwise", "--set")]).config
    assert config.tasks["click"].listwise == 0.0
    with pytest.raises(ConfigError, match="it is for kind 'funnel'"):
        settings.load(_file(tmp_path, '[tasks.purchase]\nkind = "binary"\nafter = "click"\n'))


def test_a_secret_is_neither_shown_nor_told(tmp_path: Path) -> None:
    """`config show` and messages may end in a ticket."""
    file = _file(tmp_path, '[kafka.client]\n"sasl.password" = "hush"\n')
    assert _shown(settings.load(file))["kafka.client.sasl.password"].value == "***"
    bad = _file(tmp_path, '[kafka.client]\n"sasl.password" = ["hush"]\n', "bad.toml")
    with pytest.raises(ConfigError) as caught:
        settings.load(bad)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'kafka: {client: {"sasl.password": "hush", x}}\n- ',
        'kafka: {client: ["hush"]}',
        'kafka: {client: "hush"}',
        'kafka: "hush"',
        'kafka: {client: {"ssl.key.password": ["hush"]}}',
    ],
)
def test_no_fault_of_a_file_tells_a_secret(tmp_path: Path, text: str) -> None:
    """YAML's own message repeats the line, pydantic's the value."""
    with pytest.raises(ConfigError) as caught:
        settings.load(_file(tmp_path, text, "bad.yaml"))
    shown = "".join(traceback.format_exception(caught.value))
    assert "hush" not in shown


@pytest.mark.parametrize(
    "flag", ["kafka.client=[hush", "kafka.client=hush", 'kafka={"client": {"sasl.password": "hush"', "=hush"]
)  # fmt: skip
def test_no_fault_of_a_flag_tells_a_secret(flag: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.load(flags=[settings.assignment(flag)])
    assert "hush" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "text",
    [
        "kafka: &a {client: *a}",
        "tasks: {x: &a {kind: *a}}",
        "x: &a [*a]",
        "a: &a {" + ", ".join(f"k{i}: 1" for i in range(9)) + "}\n"
        + "".join(f"{c}: &{c} {{" + ", ".join(f"k{i}: *{p}" for i in range(9)) + "}\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
        "? [a, b]\n: c",
        "a: 2001-99-99",
        "a: !!int ''",
        "[" * 5_000,
    ],
)  # fmt: skip
def test_a_file_without_end_is_one_message(tmp_path: Path, text: str) -> None:
    """Aliases that hold themselves or multiply, values that are not of their tag, depth."""
    with pytest.raises(ConfigError):
        settings.load(_file(tmp_path, text, "bad.yaml"))


def test_a_key_that_is_there_twice_does_not_confuse_the_lines(tmp_path: Path) -> None:
    """YAML lets the last one hold, whatever the first one was."""
    file = _file(tmp_path, "topics: x\ntopics:\n  events: [a]\n", "twice.yaml")
    assert settings.load(file).config.topics.events == ("a",)


def test_the_name_of_a_secret_file_is_shown(tmp_path: Path) -> None:
    """It is what an operator looks for when the login fails."""
    file = _file(tmp_path, '[kafka.client]\n"sasl.password_file" = "/run/secrets/kafka"\n')
    assert (
        _shown(settings.load(file))["kafka.client.sasl.password_file"].value == "/run/secrets/kafka"
    )


def test_the_dots_of_a_librdkafka_key_survive_every_layer(tmp_path: Path) -> None:
    file = _file(tmp_path, '[kafka.client]\n"security.protocol" = "SSL"\n')
    found = settings.load(
        file,
        {"SMTL_KAFKA__CLIENT__SSL__CA__LOCATION": "/ca"},
        [settings.assignment("kafka.client.client.rack=r1")],
    )
    assert found.config.kafka.client == {
        "security.protocol": "SSL",
        "ssl.ca.location": "/ca",
        "client.rack": "r1",
    }


def test_tasks_in_a_file_are_all_tasks_and_a_flag_changes_one(tmp_path: Path) -> None:
    """A file can leave a task out; a flag does not drop the others."""
    file = _file(tmp_path, '[tasks.click]\nweight = 2\n[tasks.fav]\nkind = "binary"\n')
    config = settings.load(file).config
    assert set(config.tasks) == {"click", "fav"}
    assert (config.tasks["click"].kind, config.tasks["click"].weight) == ("binary", 2)
    flagged = settings.load(flags=[settings.assignment("tasks.click.weight=3")]).config
    assert set(flagged.tasks) == set(Config().tasks)
    assert flagged.tasks["click"].weight == 3
    weighed = settings.load(flags=[settings.assignment("scoring.value.click=9")]).config
    assert weighed.scoring.value == {"click": 9.0, "purchase": 1.0}


@pytest.mark.parametrize("text", ["not toml", "[cut]\ncut = [", "\xff"])
def test_a_broken_file_is_one_message(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"x\.toml"):
        settings.load(path)


def test_a_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="stream-mtl init"):
        settings.load(tmp_path / "none.toml")


def test_an_assignment_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        settings.assignment("cut.interval_ms")


def test_the_starter_file_changes_nothing_and_names_every_section(tmp_path: Path) -> None:
    """As written it is the defaults; with every line uncommented it is the defaults still."""
    path = tmp_path / "shop.toml"
    starter.write(path)
    assert settings.load(path).config == Config()
    lines = [
        line.removeprefix("# ")
        if " = " in line and line.startswith("# ") and line[2].islower()
        else line
        for line in path.read_text().splitlines()
    ]
    lines = [line.removeprefix("# ") if line.startswith("# [") else line for line in lines]
    start = next(i for i, line in enumerate(lines) if line.startswith("app ="))
    whole = tomllib.loads("\n".join(line for line in lines[start:] if not line.startswith("With ")))
    assert set(whole) == set(Config.model_fields)
    assert Config.model_validate(whole) == Config()


def test_the_starter_file_never_overwrites(tmp_path: Path) -> None:
    path = _file(tmp_path, "mine")
    with pytest.raises(ConfigError, match="not overwritten"):
        starter.write(path)
    assert path.read_text() == "mine"


def test_the_schema_accepts_the_defaults_and_refuses_an_unknown_key() -> None:
    schema = settings.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    document = Config().model_dump(mode="json")
    assert validator.is_valid(document)
    assert not validator.is_valid({**document, "colour": "red"})


def test_every_key_of_the_config_is_shown() -> None:
    shown = {row.key for row in settings.effective(settings.load())}
    plain = {".".join(leaf.keys) for leaf in leaves() if not leaf.names and "NAME" not in leaf.keys}
    assert plain <= shown
    assert "tasks.purchase.after" in shown


def test_the_library_reads_a_file_the_same_way(tmp_path: Path) -> None:
    file = _file(tmp_path, "[tasks.click]\nweight = 2\n")
    assert Config.load(file) == settings.load(file).config
