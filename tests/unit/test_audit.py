"""Reading a compacted topic: which missing scores are a fault, and which only an older list."""

from __future__ import annotations

import pytest

from schemas.scores import CUT_HEADER
from stream_mtl.cut import Record
from workers.audit import _cut_of, _Partition

Seen = tuple[str, int, int]  # key, offset, cut


def horizon(seen: list[Seen]) -> int:
    partition = _Partition()
    for key, offset, cut in seen:
        partition.see(key, offset, cut)
    return partition.horizon


# Cuts 0, 1, 2 with two scores each; a marker takes offsets 2, 5 and 8.
WHOLE: list[Seen] = [("a", 0, 0), ("b", 1, 0), ("a", 3, 1), ("c", 4, 1), ("a", 6, 2), ("b", 7, 2)]


def test_markers_are_no_holes() -> None:
    assert horizon(WHOLE) == -1


def test_a_compacted_log_is_compared_behind_its_first_repeated_key_only() -> None:
    """a and b of cut 0 were compacted away; c and a of cuts 1 and 2 are each there once."""
    assert horizon([("c", 4, 1), ("a", 6, 2), ("b", 7, 2), ("a", 9, 3), ("c", 10, 3)]) == 2


def test_a_hole_behind_the_first_repeated_key_is_an_aborted_transaction() -> None:
    assert horizon([*WHOLE, ("c", 40, 3)]) == -1


@pytest.mark.parametrize(
    ("headers", "cut"),
    [
        (((CUT_HEADER, b"7"),), 7),
        ((), -1),
        (((CUT_HEADER, b"x"),), -1),
        (((CUT_HEADER, None),), -1),
    ],
)
def test_a_score_without_its_cut_is_of_no_cut(
    headers: tuple[tuple[str, bytes | None], ...], cut: int
) -> None:
    assert _cut_of(Record("scores", 0, 0, b"k", b"{}", 0, headers)) == cut
