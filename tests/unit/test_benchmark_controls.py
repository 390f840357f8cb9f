"""What benchmarks compare with: the arm without rehearsal, and every division of the tasks."""

from __future__ import annotations

import pytest

from benchmarks.repeated_rows import Repeated
from benchmarks.sharing import divisions
from stream_mtl import Config
from stream_mtl.testing_rows import rows


@pytest.mark.parametrize(("loss", "ratio", "sizes"), [
    ("none", 1.0, [10, 20, 20, 20]),
    ("none", 2.0, [10, 20, 30, 30]),
    ("der++", 2.0, [10, 10, 10, 10]),
])  # fmt: skip
def test_without_rehearsal_a_step_has_as_many_rows_all_of_them_fresh(
    loss: str, ratio: float, sizes: list[int]
) -> None:
    """Each row comes as often as the others, newest last; with rehearsal the learner draws the rest itself."""
    repeated = Repeated(Config.model_validate({"rehearsal": {"loss": loss, "ratio": ratio}}))
    steps = [repeated.rows(rows(10, first=10 * step)) for step in range(4)]
    assert [len(step) for step in steps] == sizes
    assert (steps[-1].row_key_B[-10:] == rows(10, first=30).row_key_B).all()


@pytest.mark.parametrize(("tasks", "bell"), [(1, 1), (2, 2), (3, 5), (4, 15), (5, 52)])
def test_every_division_of_tasks_comes_once(tasks: int, bell: int) -> None:
    """As many as Bell's number."""
    found = [frozenset(map(frozenset, division)) for division in divisions(tuple(range(tasks)))]
    assert len(found) == len(set(found)) == bell
    assert all({task for group in one for task in group} == set(range(tasks)) for one in found)
