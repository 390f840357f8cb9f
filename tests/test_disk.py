"""R5 at a small dose: a disk that damages, refuses and fills up (`benchmarks.soak.disk`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.soak.disk import figures


@pytest.mark.timeout(900)  # about a hundred starts of the worker's loop
def test_no_damage_of_the_disk_goes_unseen_and_none_stops_the_worker(tmp_path: Path) -> None:
    """Each asked figure holds; the naive store among them, which must load bad state."""
    short = [told for told in figures(tmp_path, places=1) if told.holds is False]
    assert short == []
