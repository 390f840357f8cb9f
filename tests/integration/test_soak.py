"""A small dose of each fault program: what must hold holds, and each naive variant fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.soak.__main__ import PROGRAMS
from benchmarks.soak.nursery import Nursery
from benchmarks.soak.row import Ground

# Not here: r5, s and fuzz have a dose among the tests without a broker, r6 measures times.
HERE = ("r1", "r2", "r3", "r4", "r7", "mixed", "e")

pytestmark = [pytest.mark.integration, pytest.mark.timeout(3_600)]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as one:
        yield one


@pytest.mark.parametrize("program", HERE)
def test_what_must_hold_under_this_fault_holds(
    nursery: Nursery, kafka_jars: Path, tmp_path: Path, program: str
) -> None:
    """Every row that asks for something; the naive variants' rows ask that they fail."""
    rows = list(PROGRAMS[program](Ground(tmp_path, kafka_jars, nursery, "small", seed=1)))
    assert [row for row in rows if row.holds is False] == []
    assert any(row.holds for row in rows)
