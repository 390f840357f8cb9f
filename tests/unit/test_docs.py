"""What the documentation promises can be done as it says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from benchmarks.forgetting import CHANGING
from stream_mtl import build
from stream_mtl.balancers import BALANCERS
from stream_mtl.config import Config
from stream_mtl.delays import DELAYS
from stream_mtl.drift import DETECTORS
from stream_mtl.imbalances import IMBALANCES
from stream_mtl.labels import SOURCES
from stream_mtl.memory import MEMORIES
from stream_mtl.models import MODELS
from stream_mtl.modes import MODES
from stream_mtl.rankings import RANKINGS
from stream_mtl.regularizers import REGULARIZERS
from stream_mtl.rehearsal import REHEARSALS
from stream_mtl.retrieval import SOURCES as CANDIDATES
from stream_mtl.samplers import SAMPLERS
from stream_mtl.searches import SEARCHES
from stream_mtl.serde import parse
from stream_mtl.tasks import TASKS
from tests.folds import as_records, shop_cuts, small

METHODS = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
NAMES = sorted(
    {
        *IMBALANCES,
        *RANKINGS,
        *DELAYS,
        *MODELS,
        *MODES,
        *BALANCERS,
        *MEMORIES,
        *SAMPLERS,
        *REHEARSALS,
        *REGULARIZERS,
        *TASKS,
        *SOURCES,
        *DETECTORS,
        *SEARCHES,
    }
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", METHODS, re.DOTALL)


def test_the_settings_for_a_shop_that_changes_are_those_that_were_measured() -> None:
    told = [tomllib.loads(block) for block in blocks("toml")]
    assert CHANGING in told


@pytest.mark.parametrize("name", sorted(set(CANDIDATES) - {"popular", "rising", "category"}))
def test_every_source_of_candidates_is_named(name: str) -> None:
    assert f"`{name}`" in METHODS


@pytest.mark.parametrize("name", NAMES)
def test_every_method_has_a_word_of_advice(name: str) -> None:
    assert re.search(rf"[`*]{re.escape(name)}[`*]", METHODS)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning"
)  # Avalanche's imports
@pytest.mark.parametrize("text", blocks("toml"))
def test_what_is_shown_is_a_configuration_that_learns(text: str) -> None:
    shown = tomllib.loads(text)
    config = small(**shown)
    assert set(shown.get("tasks", ())) <= set(config.tasks)
    model = build(Config.model_validate(config.model_dump()), "test")
    for cut in shop_cuts(config, 900):
        model.step(cut)
    assert model.totals["scores"] > 0


def test_the_commands_shown_are_commands() -> None:
    lines = [line.encode() for block in blocks("json") for line in block.splitlines()]
    source = Config().source
    kinds = [
        type(parse(record, line, source)).__name__
        for record, line in zip(as_records(lines), lines, strict=True)
    ]
    assert kinds == ["AddTask", "RetireTask"]
