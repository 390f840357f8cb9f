"""The worker on a real Kafka, killed at chosen steps: each score once, and the state of an undisturbed fold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream_mtl.config import Config

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3_600)]

KILLS = {
    "exactly_once": ("commit.offsets:3", "commit.sent:2", "step.done:2", "checkpoint.renamed"),
    "at_least_once": ("commit.produced:3", "commit.flushed:2", "commit.acknowledged:2"),
}


def stream_mtl(
    config: Path, *arguments: str, failpoint: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "workers.cli", *arguments, "-c", str(config), "--json"],
        env={**os.environ, "STREAM_MTL_FAILPOINT": failpoint, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1_800,
    )


def answer(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("delivery", KILLS)
def test_a_worker_that_is_killed_at_chosen_steps_ends_as_if_nothing_had_happened(
    bootstrap: str, config_for: Callable[..., Config], tmp_path: Path, delivery: str
) -> None:
    """kill -9, restart, to the end of the input; then `ledger verify` folds all cuts again."""
    made = config_for(
        bootstrap,
        kafka={"delivery": delivery},
        state=str(tmp_path / "state"),
        cut={"max_records": 150},
        checkpoint={"interval_s": 1},
        metrics={"address": "off"},
    )
    file = tmp_path / "shop.yaml"
    file.write_text(made.model_dump_json(exclude_unset=True))
    answer(
        stream_mtl(file, "simulate", "--events", "3000", "--seed", "5", "--bootstrap", bootstrap)
    )

    for failpoint in KILLS[delivery]:
        died = stream_mtl(file, "run", "trainer", "--until-idle", failpoint=failpoint)
        assert died.returncode == -signal.SIGKILL, died.stdout + died.stderr
    summary = answer(stream_mtl(file, "run", "trainer", "--until-idle"))
    assert summary["events_consumed"] == 3_000
    assert summary["delivery"] == delivery

    report = answer(stream_mtl(file, "ledger", "verify"))
    assert report == {
        "cuts": summary["cuts"],
        "gaps": 0,
        "overlaps": 0,
        "digest_equal": True,
        "scores_missing": 0,
        "scores_doubled": 0,
        "cuts_unverifiable": 0,
        "faults": [],
    }
    again = answer(stream_mtl(file, "run", "trainer", "--until-idle"))
    assert again["state_digest"] == summary["state_digest"]
