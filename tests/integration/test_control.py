"""Commands to a worker on a real Kafka: paused, set right, rolled back and killed in the middle of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.scores import Ack
from stream_mtl.config import Config
from stream_mtl.kafka.ledger_log import read_ledger
from stream_mtl.kafka.topics import ensure_topics
from stream_mtl.ledger import Entry, decode
from stream_mtl.recovery import lineage_reason
from stream_mtl.rollback import ROLLBACK
from tests.integration.test_trainer import answer, stream_mtl
from tests.publications import read_published
from workers.cli import run
from workers.control import command, send

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3_600)]


@contextmanager
def worker(file: Path, failpoint: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A trainer that runs until the block ends, then gets SIGTERM; what it says goes beside its config."""
    with file.with_suffix(".log").open("ab") as said:
        running = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", "run", "trainer", "-c", str(file)],
            env={**os.environ, "STREAM_MTL_FAILPOINT": failpoint, "OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=said,
        )
        try:
            yield running
        finally:
            if running.poll() is None:
                running.send_signal(signal.SIGTERM)
            running.wait(600)


def entries(config: Config) -> list[Entry]:
    return [decode(raw, offset) for offset, raw in read_ledger(config)]


def until(config: Config, holds: Callable[[list[Entry]], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not holds(entries(config)):
        assert time.monotonic() < deadline, "the worker did not get there"
        time.sleep(0.3)


def read_positions(config: Config) -> dict[tuple[str, int], int]:
    """Where the ledger stands, without the control topic."""
    last = entries(config)[-1].positions
    return {place: at for place, at in last.items() if place[0] != config.topics.control}


def say(config: Config, kind: str, command_id: str, **arguments: Any) -> Ack:
    """Send a command and have its answer."""
    found = send(config, command(kind, arguments, command_id), wait_s=600)
    assert found is not None
    return found


def simulate(file: Path, bootstrap: str, seed: int) -> None:
    given = ["simulate", "--events", "600", "--seed", f"{seed}", "--bootstrap", bootstrap]
    assert run([*given, "-c", str(file), "--json"]) == 0


def test_a_running_worker_obeys_each_command_once_and_answers_it_once(
    bootstrap: str, config_for: Callable[..., Config], tmp_path: Path
) -> None:
    """Paused over a restart, set right, rolled back, and killed on both sides of the rollback's lineage record."""
    config = config_for(
        bootstrap,
        state=str(tmp_path / "state"),
        cut={"max_records": 150, "interval_ms": 300},
        checkpoint={"interval_s": 1, "keep": 5},
        metrics={"address": "off"},
    )
    file = tmp_path / "shop.yaml"
    file.write_text(config.model_dump_json(exclude_unset=True))
    simulate(file, bootstrap, seed=5)

    with worker(file):
        until(config, lambda found: len(found) > 3)
        paused = say(config, "pause", "p1")
        stood = read_positions(config)
        simulate(file, bootstrap, seed=6)
        weight = say(config, "set_task_weight", "w1", task="click", weight=2.0)
        assert weight.cut > paused.cut
        assert say(config, "pause", "p1").repeated == paused.cut
        assert read_positions(config) == stood, "events came in and were not read"
    with worker(file, failpoint="rollback.begun") as dies:  # and it starts paused
        refused = say(config, "retire_task", "t1", task="nothing")
        assert "no task" in (refused.reason or "")
        assert read_positions(config) == stood
        assert say(config, "resume", "r1").done
        until(config, lambda found: read_positions(config) != stood)
        rolled = say(config, "rollback", "b1")
        assert rolled.done, rolled.reason
        assert dies.wait(600) == -signal.SIGKILL
    with worker(file, failpoint="rollback.recorded") as dies:
        assert dies.wait(600) == -signal.SIGKILL
    send(config, command("rollback", {}, "b1"), wait_s=0)  # the sender never heard
    summary = answer(stream_mtl(file, "run", "trainer", "--until-idle"))
    assert summary["events_consumed"] == 1_200 + 7  # commands are records too

    began = [entry for entry in entries(config) if lineage_reason(entry.record) == ROLLBACK]
    assert [entry.record.lineage for entry in began] == [summary["lineage"]]
    assert began[0].record.decisions[0]["command_id"] == "b1"
    acks = [
        Ack.model_validate_json(record.value or b"")
        for record in read_published(config, config.topics.acks)
    ]
    assert [one.command_id for one in acks] == ["p1", "w1", "p1", "t1", "r1", "b1", "b1"]
    assert [one.repeated for one in acks if one.command_id == "b1"] == [None, rolled.cut]

    report = answer(stream_mtl(file, "ledger", "verify"))
    assert report["faults"] == []
    assert report["digest_equal"]
    assert report["cuts_unverifiable"] < report["cuts"]

    listed = answer(stream_mtl(file, "ledger", "ls", "--last", "10000"))["last"]
    decided = {d["command_id"]: d for row in listed for d in row["decisions"] if "command_id" in d}
    assert {"p1", "w1", "t1", "r1", "b1"} <= decided.keys()
    assert "no task" in decided["t1"]["reason"], "why, for people without a Kafka client"


def test_the_verb_says_done_refused_or_no_answer(
    bootstrap: str, config_for: Callable[..., Config], tmp_path: Path
) -> None:
    """Without topics it says so; without a worker there is no answer; a pause sent beforehand holds the next run."""
    config = config_for(bootstrap, state=str(tmp_path / "state"), metrics={"address": "off"})
    file = tmp_path / "shop.yaml"
    file.write_text(config.model_dump_json(exclude_unset=True))
    given = ["-c", str(file), "--json"]
    assert run(["control", "pause", *given]) == 78
    ensure_topics(config)
    assert run(["control", "pause", "--wait", "1", *given]) == 75
    assert run(["control", "set-task-weight", "click", "0", *given]) == 78
    held = stream_mtl(file, "run", "trainer", "--until-idle")
    assert held.returncode == 78, held.stdout
    assert "control resume" in json.loads(held.stdout)["error"]["message"]
    with worker(file):
        assert run(["control", "retire-task", "nothing", "--wait", "600", *given]) == 65
        assert run(["control", "resume", "--wait", "600", *given]) == 0
