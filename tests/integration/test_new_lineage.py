"""Settings that change what the state looks like: refused, then carried over as far as they fit, on a real Kafka."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stream_mtl.config import Config
from tests.integration.test_trainer import answer, stream_mtl

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3_600)]


def test_a_new_lineage_starts_afresh_only_what_no_longer_fits(
    bootstrap: str, config_for: Callable[..., Config], tmp_path: Path
) -> None:
    """The network is another one; events, windows and memories go on, nothing is read twice."""
    made = config_for(
        bootstrap,
        state=str(tmp_path / "state"),
        cut={"max_records": 300},
        checkpoint={"interval_s": 3600},
        metrics={"address": "off"},
        model={"experts": 2, "hidden": 32},
    )
    file = tmp_path / "shop.yaml"
    file.write_text(made.model_dump_json(exclude_unset=True))
    more = ("simulate", "--events", "1500", "--bootstrap", bootstrap, "--seed")
    answer(stream_mtl(file, *more, "3"))
    before = answer(stream_mtl(file, "run", "trainer", "--until-idle"))

    narrower = ("--set", "model.hidden=16")
    refused = stream_mtl(file, "run", "trainer", "--until-idle", *narrower)
    assert refused.returncode == 65
    assert "model.hidden was 32, is 16" in refused.stderr

    # killed when the lineage is recorded and no checkpoint holds it: the next start does the same again
    died = stream_mtl(
        file,
        "run",
        "trainer",
        "--until-idle",
        "--new-lineage",
        *narrower,
        failpoint="checkpoint.cloned",
    )
    assert died.returncode < 0, died.stderr
    assert "carried over afresh=network" in died.stderr
    answer(stream_mtl(file, *more, "4"))
    after = answer(stream_mtl(file, "run", "trainer", "--until-idle", *narrower))
    assert after["lineage"] != before["lineage"]
    assert after["events_consumed"] == 3_000
    assert after["tasks"]["click"]["labels"] >= before["tasks"]["click"]["labels"]
    report = answer(stream_mtl(file, "ledger", "verify", *narrower))
    assert (report["gaps"], report["overlaps"], report["digest_equal"]) == (0, 0, True)
