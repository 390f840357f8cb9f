"""The command line: verbs, options, exit codes, and what goes to stdout."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from stream_mtl.errors import (
    BrokerUnavailable,
    CheckpointCorrupt,
    CommitIndefinite,
    ConfigError,
    Fenced,
    NumericError,
    PositionLost,
    StorageError,
)
from workers.cli import VERBS, cli, run

COMMON = {"--config", "--set", "--json", "--debug", "--help"}
KAFKA, STATE, SENT = {"--bootstrap"}, {"--state"}, {"--id", "--wait"}
PINNED: dict[str, set[str]] = {
    "demo": {"--events", "--broker", "--seed", "--scenario"} | KAFKA | STATE,
    "run trainer": {
        "--until-idle",
        "--take-over",
        "--new-lineage",
        "--cold-start",
        "--accept-topic-recreation",
    }
    | KAFKA
    | STATE,
    "backtest": {"--scores"},
    "tune": {
        "--space",
        "--show-space",
        "--trials",
        "--timeout",
        "--objective",
        "--tuning-share",
        "--out",
        "--study",
    },
    "simulate": {"--events", "--seed", "--scenario", "--truth", "--rate", "--out"} | KAFKA,
    "broker up": {"--port", "--dir"},
    "check": KAFKA | STATE,
    "init": set(),
    "config show": {"--all"} | KAFKA | STATE,
    "config schema": set(),
    "config tasks": set(),
    "control pause": SENT | KAFKA,
    "control resume": SENT | KAFKA,
    "control rollback": {"--cut", "--checkpoint"} | SENT | KAFKA,
    "control set-task-weight": SENT | KAFKA,
    "control add-task": {"--with"} | SENT | KAFKA,
    "control retire-task": SENT | KAFKA,
    "control promote": {"--lineage"} | SENT | KAFKA,
    "ckpt rollback": SENT | KAFKA | STATE,
    "ckpt ls": STATE,
    "ckpt show": STATE,
    "ckpt verify": STATE,
    "ckpt diff": STATE,
    "ckpt propensities": STATE,
    "ledger ls": {"--last"} | KAFKA,
    "ledger verify": KAFKA | STATE,
    "dlq ls": {"--last"} | KAFKA,
    "dlq show": {"--value"} | KAFKA,
    "dlq replay": {"--reason", "--limit", "--partition", "--offset", "--again", "--dry-run"}
    | KAFKA,
    "replay": {"--first", "--last", "--from-nothing", "--out", "--from-scratch"} | KAFKA | STATE,
    "erase": {"--dry-run"} | SENT | KAFKA | STATE,
    "events validate": {"--dialect"},
    "events propensities": {"--surface"},
}


def _commands() -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": verb for inner, verb in command.commands.items()}
        else:
            found[name] = command
    return found


def _json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one object on stdout."""
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


def test_verbs_and_options_are_pinned() -> None:
    """Scripts build on them: a change is to be seen in review."""
    found = {
        name: {
            option
            for parameter in command.get_params(click.Context(command, info_name=name))
            if isinstance(parameter, click.Option)
            for option in parameter.opts
            if option.startswith("--")
        }
        - {"--help"}
        for name, command in _commands().items()
    }
    assert found == {name: options | (COMMON - {"--help"}) for name, options in PINNED.items()}


def test_every_verb_says_what_it_does() -> None:
    """In its own help and, for the whole list, without being imported."""
    assert all(command.help for command in _commands().values())
    assert all(help_ for _, _, help_ in VERBS.values())


@pytest.mark.parametrize("verb", ["", *sorted(PINNED)])
def test_help_answers_without_loading_torch_or_a_kafka_client(verb: str) -> None:
    """In a fresh process: these imports are what makes a command line slow."""
    program = (
        "import sys\n"
        "from workers.cli import run\n"
        f"code = run({[*verb.split(), '--help']!r})\n"
        "heavy = {'torch', 'confluent_kafka', 'transformers', 'pydantic', 'numpy', 'rich', 'optuna'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
    assert done.stdout.startswith("Usage: stream-mtl")


@pytest.mark.parametrize(
    "arguments",
    [
        ["tune-up"],
        ["config", "shwo"],
        ["backtest"],
        ["tune"],
        ["tune", "x.jsonl", "--trials", "0"],
        ["simulate"],
        ["simulate", "--events", "many"],
        ["simulate", "--events", "1", "--scenario", "circus"],
        ["simulate", "--events", "1", "--json"],
        ["init", "--colour"],
    ],
)
def test_a_wrong_command_line_is_exit_64(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 64
    said = capsys.readouterr()
    assert said.err.strip()
    assert not said.out.strip() or "--json" in arguments


def test_a_near_miss_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    run(["backtset"])
    assert "Did you mean backtest?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error,code",
    [
        (ConfigError("x"), 78),
        (PositionLost("x"), 78),
        (BrokerUnavailable("x"), 69),
        (CommitIndefinite("x"), 75),
        (Fenced("x"), 76),
        (StorageError("x"), 74),
        (CheckpointCorrupt("x"), 65),
        (NumericError("x"), 70),
        (OSError(28, "No space left on device"), 74),
        (KeyError("user-4711"), 70),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_went_wrong_decides_the_exit_code(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Supervisors and alerts build on it; a bug's message holds no content of a record."""

    def fail(path: Path) -> None:
        raise error

    monkeypatch.setattr("workers.starter.write", fail)
    assert run(["init", "x.toml"]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert "user-4711" not in said.err
    assert "Traceback" not in said.err


def test_with_json_an_error_is_the_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "show", "--json", "--set", "cut.intervall_ms=1"]) == 78
    assert _json(capsys)["error"]["kind"] == "ConfigError"


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("workers.starter.write", lambda path: 1 / 0)
    assert run(["init", "x.toml", "--debug"]) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_init_then_show_gives_the_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "shop.toml"
    assert run(["init", str(path), "--json"]) == 0
    assert _json(capsys) == {"written": str(path)}
    assert run(["config", "show", "-c", str(path), "--bootstrap", "b:1", "--json"]) == 0
    changed = {s["key"]: s for s in _json(capsys)["settings"] if s["origin"] != "default"}
    assert list(changed) == ["kafka.bootstrap"]
    assert changed["kafka.bootstrap"]["origin"] == "flag --bootstrap"
    assert run(["init", str(path)]) == 78


def test_the_environment_reaches_the_config(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMTL_APP", "other")
    assert run(["config", "show"]) == 0
    assert "environment SMTL_APP" in capsys.readouterr().out


def test_config_schema_is_one_json_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "schema", "--json"]) == 0
    assert _json(capsys)["additionalProperties"] is False


def test_config_tasks_says_what_every_task_learns_and_what_its_score_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "shop.toml"
    path.write_text("""
[tasks.click]
kind = "binary"
[tasks.long_view]
kind = "binary"
label = "dwell_ms"
above = 10000
fields = ["@item"]
[tasks.stars]
kind = "regression"
label = "rating"
[join]
click_window_ms = 60000
""")
    assert run(["config", "tasks", "-c", str(path), "--json"]) == 0
    told = _json(capsys)["tasks"]
    assert told["click"]["window_ms"] == 60_000
    assert told["stars"]["window_ms"] is None
    assert told["long_view"]["label"].endswith("at least 10000")
    assert told["long_view"]["fields"] == ["@item"]
    assert told["stars"]["score"] == "the value, in the unit of its label"
    path.write_text("""
[tasks.click]
kind = "binary"
label = "klick"
""")
    assert run(["config", "tasks", "-c", str(path)]) == 78
    assert "'klick' is not a source of labels" in capsys.readouterr().err


def test_simulated_events_validate_and_poison_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same seed gives the same file; a refused line is named by file and line."""
    good, again, dirty = (tmp_path / name for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl"))
    for path in (good, again):
        assert run(["simulate", "--events", "700", "--seed", "1", "--out", str(path)]) == 0
    capsys.readouterr()
    assert run(["events", "validate", str(good), str(again), "--json"]) == 0
    found = _json(capsys)
    assert (found["valid"], found["refused"]) == (1_400, 0)
    truth = tmp_path / "truth.jsonl"
    dirt = ["--events", "1500", "--scenario", "dirty", "--out", str(dirty), "--truth", str(truth)]
    assert run(["simulate", *dirt, "--json"]) == 0
    assert _json(capsys)["events"] == 1_500
    assert all(0 < json.loads(line)["p_click"] < 1 for line in truth.read_text().splitlines())
    assert run(["events", "validate", str(dirty), "--json"]) == 65
    found = _json(capsys)
    assert found["valid"] + found["refused"] == 1_500
    assert found["reasons"]["not_json"]["examples"][0]["at"].startswith(f"{dirty}:")


def test_simulated_events_go_to_stdout(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "workers.cli", "simulate", "--events", "5"],
        capture_output=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 5
    assert all(isinstance(line["event_time"], int) for line in lines)


def test_a_reader_that_leaves_early_is_no_error() -> None:
    """`simulate | head` is how people look at it."""
    command = f"{sys.executable} -m workers.cli simulate --events 20000 | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_missing_file_of_events_is_exit_78(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in (["backtest"], ["events", "validate"]):
        assert run([*verb, str(tmp_path / "none.jsonl"), "--json"]) == 78
        assert "no such file" in _json(capsys)["error"]["message"]


def test_a_field_that_a_task_has_not_is_refused_before_it_is_sent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A worker would start the task without it, and say that it is done."""
    where = ["--bootstrap", "127.0.0.1:1", "--json"]
    for given, said in (("wieght=5", "did you mean weight?"), ("zzz=1", "there are: above, after")):
        assert run(["control", "add-task", "cart", "binary", "--with", given, *where]) == 78
        assert said in _json(capsys)["error"]["message"]


def test_a_broker_is_not_started_where_another_one_would_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert run(["broker", "up", "--port", port, "--dir", str(tmp_path / "k"), "--json"]) == 78
    assert f"port {port} is taken" in _json(capsys)["error"]["message"]
    assert not (tmp_path / "k").exists()


def test_a_worker_of_several_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It would leave partitions unread, and say nothing."""
    events = tmp_path / "a.jsonl"
    assert run(["simulate", "--events", "5", "--out", str(events)]) == 0
    capsys.readouterr()
    assert run(["backtest", str(events), "--set", "source.ranks=2", "--json"]) == 78
    assert "use rank 0 of 1" in _json(capsys)["error"]["message"]


def test_checkpoints_of_a_folder_that_is_none_are_not_made_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Looking creates nothing."""
    for verb in ("ls", "show", "verify"):
        assert run(["ckpt", verb, "--state", str(tmp_path / "s"), "--json"]) == 78
        assert "--state" in _json(capsys)["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_two_checkpoints_are_compared_wherever_they_lie(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `checkpoint.store`, which the other verbs read too."""
    from stream_mtl.checkpoint import CheckpointStore
    from tests.checkpoints import save

    place = f"file://{tmp_path}/elsewhere"
    store = CheckpointStore(place)
    one, two = save(store, 1), save(store, 2)
    there = ["--set", f"checkpoint.store={place}", "--json"]
    assert run(["ckpt", "diff", one.name, two.name, *there]) == 0
    parts = {part["part"]: part for part in _json(capsys)["parts"]}
    assert parts["learner/table"]["rows"] == 50
    assert "pipeline/totals" not in parts
    assert run(["ckpt", "diff", one.name, one.name, *there]) == 0
    assert _json(capsys)["parts"] == []
    assert run(["ckpt", "ls", *there]) == 0
    assert [c["cut"] for c in _json(capsys)["checkpoints"]] == [2, 1]
    (one.path / "state.json").write_bytes(b"{}")
    assert run(["ckpt", "diff", one.name, two.name, *there]) == 65
