"""A record that kills the process, under a supervisor, on a real Kafka."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.scores import ConnectHeader, LedgerRecord
from stream_mtl.config import Config
from stream_mtl.kafka.ledger_log import read_ledger
from stream_mtl.kafka.produce import EventWriter
from stream_mtl.kafka.reading import read_topic
from stream_mtl.ledger import quarantined_in
from tests.integration.test_trainer import answer, stream_mtl

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3_600)]

EVENTS = 60
POISON = b"a-record-that-kills"
NAIVE = """
from workers.isolation import Isolation
Isolation.arrive = lambda self: None
from workers.cli import main
main()
"""


def start(file: Path, *python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, "run", "trainer", "--until-idle", "-c", str(file), "--json"],
        env={**os.environ, "STREAM_MTL_CRASH_ON": POISON.decode(), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1_800,
    )


def supervised(restarts: int, file: Path, *python: str) -> tuple[int, dict[str, object] | None]:
    """Restarts until it ends by itself; its summary, None when it never did."""
    for deaths in range(restarts):
        done = start(file, *python)
        if done.returncode != -signal.SIGKILL:
            return deaths, answer(done)
    return restarts, None


def cuts(config: Config) -> list[LedgerRecord]:
    return [LedgerRecord.model_validate_json(raw) for _, raw in read_ledger(config)]


def test_a_record_that_kills_the_process_is_put_aside_and_all_others_are_learned(
    bootstrap: str, config_for: Callable[..., Config], tmp_path: Path
) -> None:
    """The naive worker dies for ever at the same place; this one finds the record in bounded time."""
    made = config_for(
        bootstrap,
        state=str(tmp_path / "state"),
        cut={"max_records": 8},
        metrics={"address": "off"},
        model={"experts": 2, "hidden": 16},
    )
    file = tmp_path / "shop.yaml"
    file.write_text(made.model_dump_json(exclude_unset=True))
    answer(
        stream_mtl(
            file, "simulate", "--events", f"{EVENTS}", "--seed", "5", "--bootstrap", bootstrap
        )
    )
    writer = EventWriter(made)
    value = json.dumps({"type": "search", "event_time": 0, "query": POISON.decode()}).encode()
    writer.write(made.topics.events[0], b"somebody", value)
    writer.flush()
    answer(
        stream_mtl(
            file, "simulate", "--events", f"{EVENTS}", "--seed", "6", "--bootstrap", bootstrap
        )
    )

    naive_deaths, naive = supervised(2, file, "-c", NAIVE)
    assert (naive_deaths, naive) == (2, None)
    assert supervised(1, file, "-c", NAIVE) == (1, None)
    (killer,) = [one for one in read_topic(made, made.topics.events[0]) if one.value == value]
    ranges = [one for record in cuts(made) for one in record.ranges]
    assert not [
        one
        for one in ranges
        if (one.topic, one.partition) == (killer.topic, killer.partition)
        and one.stop > killer.offset
    ]

    deaths, summary = supervised(25, file, "-m", "workers.cli")
    assert summary is not None
    assert deaths >= 3
    assert summary["events_consumed"] == 2 * EVENTS + 1

    letters = [
        letter
        for letter in read_topic(made, made.topics.dlq)
        if dict(letter.headers)[ConnectHeader.EXCEPTION] == b"crash"
    ]
    assert [letter.value for letter in letters] == [value]
    (place,) = {one for record in cuts(made) for one in quarantined_in(record)}
    headers = dict(letters[0].headers)
    assert str(place[2]).encode() == headers[ConnectHeader.OFFSET]

    report = answer(stream_mtl(file, "ledger", "verify"))
    assert (report["gaps"], report["overlaps"], report["scores_missing"]) == (0, 0, 0)
    assert report["digest_equal"] is True
    assert report["cuts_unverifiable"] == 0
    print(f"deaths until the record was found: {deaths}")
