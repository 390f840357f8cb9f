"""What `ckpt diff` says of two states."""

from __future__ import annotations

import torch

from stream_mtl.checkpoint_diff import differences
from tests.checkpoints import a_state


def test_equal_states_differ_in_nothing() -> None:
    """NaN included, which equals nothing but is the same bytes."""
    one = {**a_state(), "nan": torch.full((3, 2), float("nan"))}
    assert differences(one, {**a_state(), "nan": torch.full((3, 2), float("nan"))}) == []


def test_each_part_says_how_it_differs() -> None:
    a = {
        "same": torch.ones(4),
        "table": torch.ones(4, 2),
        "grown": torch.zeros(2),
        "gone": 1,
        "totals": {"events": 1, "cuts": 2},
    }
    changed = torch.ones(4, 2)
    changed[1, 0], changed[3] = 1.5, float("nan")
    b = {
        "same": torch.ones(4),
        "table": changed,
        "grown": torch.zeros(3),
        "new": [1],
        "totals": {"events": 5, "cuts": 2, "steps": 1},
    }
    found = {one.part: one for one in differences(a, b)}
    assert {name: one.kind for name, one in found.items()} == {
        "gone": "only_a",
        "grown": "shape",
        "new": "only_b",
        "table": "tensor",
        "totals": "value",
    }
    assert (found["table"].rows, found["table"].of_rows) == (2, 4)
    assert found["table"].largest == float("inf")
    assert found["totals"].changed == ("events", "steps")


def test_the_size_of_a_change_is_told_absolutely_and_relatively() -> None:
    (one,) = differences({"t": torch.full((4,), 2.0)}, {"t": torch.tensor([2.0, 2.0, 2.0, 3.0])})
    assert (one.rows, one.largest, one.relative) == (1, 1.0, 0.25)
    assert "1 of 4 rows" in one.said()
