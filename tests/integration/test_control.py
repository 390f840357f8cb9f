"""Commands to a worker on a real Kafka: paused, set right, rolled back and killed in the middle of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from schemas.scores import Ack
from stream_mtl.config import Config
from stream_mtl.kafka.ledger_log import read_ledger
from stream_mtl.ledger import Entry, decode
from stream_mtl.recovery import lineage_reason
from stream_mtl.rollback import ROLLBACK
from tests.integration.test_trainer import answer, stream_mtl
from tests.publications import read_published

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@contextmanager
def worker(file: Path, failpoint: str = "") -> Iterator[subprocess.Popen[str]]:
    """A trainer that runs until the block ends, then gets SIGTERM; its exit code is left to the caller."""
    running = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", "run", "trainer", "-c", str(file), "--json"],
        env={**os.environ, "STREAM_MTL_FAILPOINT": failpoint, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGTERM)
        running.wait(120)


def entries(config: Config) -> list[Entry]:
    return [decode(raw, offset) for offset, raw in read_ledger(config)]


def until(config: Config, holds: Callable[[list[Entry]], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds(entries(config)):
        assert time.monotonic() < deadline, "the worker did not get there"
        time.sleep(0.3)


def read_positions(config: Config) -> dict[tuple[str, int], int]:
    """Where the ledger stands, without the control topic."""
    last = entries(config)[-1].positions
    return {place: at for place, at in last.items() if place[0] != config.topics.control}


def control(file: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = stream_mtl(file, "control", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_running_worker_obeys_each_command_once_and_answers_it_once(
    bootstrap: str, config_for: Callable[..., Config], tmp_path: Path
) -> None:
    config = config_for(
        bootstrap,
        state=str(tmp_path / "state"),
        cut={"max_records": 150, "interval_ms": 300},
        checkpoint={"interval_s": 1, "keep": 5},
        metrics={"address": "off"},
    )
    file = tmp_path / "shop.yaml"
    file.write_text(config.model_dump_json(exclude_unset=True))
    events = ("simulate", "--events", "1500", "--bootstrap", bootstrap, "--seed")
    answer(stream_mtl(file, *events, "5"))

    with worker(file):
        until(config, lambda found: len(found) > 8)
        paused = control(file, "pause", "--id", "p1")
        assert paused["done"]
        stood = read_positions(config)
        answer(stream_mtl(file, *events, "6"))
        weight = control(file, "set-task-weight", "click", "2.0")
        assert weight["cut"] > paused["cut"]
        assert read_positions(config) == stood, (
            "events came in, commands were read, nothing else was"
        )
        again = control(file, "pause", "--id", "p1")
        assert again["repeated"] == paused["cut"]
    with worker(file):  # the restart is paused still
        refused = control(file, "retire-task", "nothing", "--wait", "60", code=65)
        assert "no task" in refused["reason"]
        assert read_positions(config) == stood
        assert control(file, "resume")["done"]
        until(config, lambda found: found[-1].positions != {**found[-1].positions, **stood})

    with worker(file, failpoint="rollback.begun") as dies:
        sent = stream_mtl(file, "ckpt", "rollback", "--id", "b1", "--wait", "90")
        assert dies.wait(120) == -signal.SIGKILL
        assert sent.returncode == 0, sent.stdout + sent.stderr
    with worker(file, failpoint="rollback.recorded") as dies:
        assert dies.wait(120) == -signal.SIGKILL
    with worker(file):
        repeated = control(file, "rollback", "--id", "b1", "--wait", "60")
        assert repeated["repeated"] == json.loads(sent.stdout)["cut"]
    summary = answer(stream_mtl(file, "run", "trainer", "--until-idle"))
    assert summary["events_consumed"] == 3_000 + 7  # the commands are records too

    whole = entries(config)
    began = [entry for entry in whole if lineage_reason(entry.record) == ROLLBACK]
    assert [entry.record.lineage for entry in began] == [summary["lineage"]]
    assert began[0].record.decisions[0]["command_id"] == "b1"
    records = [
        Ack.model_validate_json(record.value or b"")
        for record in read_published(config, config.topics.acks)
    ]
    assert Counter((one.command_id, one.cut) for one in records).most_common(1)[0][1] == 1
    assert len(records) == 7

    report = answer(stream_mtl(file, "ledger", "verify"))
    wrong = ("gaps", "overlaps", "scores_missing", "scores_doubled")
    assert [report[name] for name in wrong] == [0, 0, 0, 0]
    assert report["digest_equal"]
    assert report["faults"] == []
    assert report["cuts_unverifiable"] < report["cuts"]


def test_without_a_worker_there_is_no_answer_and_the_command_waits(
    bootstrap: str, config_for: Callable[..., Config], tmp_path: Path
) -> None:
    """A pause that was sent beforehand holds the worker from its first command on."""
    config = config_for(bootstrap, state=str(tmp_path / "state"), metrics={"address": "off"})
    file = tmp_path / "shop.yaml"
    file.write_text(config.model_dump_json(exclude_unset=True))
    missing = stream_mtl(file, "control", "pause")
    assert missing.returncode == 78
    assert config.topics.acks in json.loads(missing.stdout)["error"]["message"]
    answer(stream_mtl(file, "simulate", "--events", "300", "--bootstrap", bootstrap))
    stream_mtl(file, "run", "trainer", "--until-idle")
    late = stream_mtl(file, "control", "pause", "--wait", "1")
    assert late.returncode == 75
    assert "no answer" in late.stderr
    assert control(file, "pause", "--wait", "0")["done"] is None
    answer(stream_mtl(file, "simulate", "--events", "300", "--seed", "2", "--bootstrap", bootstrap))
    held = stream_mtl(file, "run", "trainer", "--until-idle")
    assert held.returncode == 78
    assert "control resume" in json.loads(held.stdout)["error"]["message"]
