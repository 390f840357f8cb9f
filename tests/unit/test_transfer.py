"""Forgetting and transfer against Avalanche's standalone metrics and cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stream_mtl.transfer import (
    backward,
    forgotten_first_last,
    forgotten_max,
    forward,
    transfer,
)

# three stages, three segments; segment 0 gets better in stage 1 before it is forgotten
RESULTS = [[0.80, 0.30, 0.10], [0.90, 0.70, 0.20], [0.60, 0.75, 0.85]]
START = [0.5, 0.2, 0.25]


def test_a_case_worked_by_hand() -> None:
    """From the definitions: ACC = mean of the last row, and so on."""
    found = transfer(RESULTS, START)
    assert found.accuracy == pytest.approx((0.60 + 0.75 + 0.85) / 3)
    assert found.forgetting_max == pytest.approx(((0.90 - 0.60) + (0.70 - 0.75)) / 2)
    assert found.forgetting_first_last == pytest.approx(((0.80 - 0.60) + (0.70 - 0.75)) / 2)
    assert found.backward == pytest.approx(((0.60 - 0.80) + (0.75 - 0.70)) / 2)
    assert found.forward == pytest.approx(((0.30 - 0.20) + (0.20 - 0.25)) / 2)


def test_the_definitions_differ_where_a_segment_got_better_later() -> None:
    assert forgotten_max(RESULTS)[0] == pytest.approx(0.3)
    assert forgotten_first_last(RESULTS)[0] == pytest.approx(0.2)


@pytest.mark.filterwarnings("ignore")  # Avalanche's own imports
@pytest.mark.parametrize("seed", range(5))
def test_it_equals_avalanche_s_standalone_metrics(seed: int) -> None:
    """Fed as its plugins feed it: a segment's first value after its own stage, its last at the end."""
    from avalanche.evaluation.metrics import BWT, Forgetting, ForwardTransfer

    random = np.random.default_rng(seed)
    a_SJ, start_J = random.random((6, 6)), random.random(6)
    forgetting, bwt, fwt = Forgetting(), BWT(), ForwardTransfer()
    for segment in range(6):
        fwt.update(segment, start_J[segment], initial=True)
        if segment:
            fwt.update(segment, a_SJ[segment - 1, segment])
        if segment < 5:
            for metric in (forgetting, bwt):
                metric.update(segment, a_SJ[segment, segment], initial=True)
                metric.update(segment, a_SJ[5, segment])
    for ours, theirs in (
        (forgotten_first_last(a_SJ), forgetting.result()),
        (backward(a_SJ), bwt.result()),
        (forward(a_SJ, start_J), fwt.result()),
    ):
        assert ours == pytest.approx([theirs[key] for key in sorted(theirs)])


def test_one_segment_cannot_be_forgotten() -> None:
    found = transfer([[0.9]], [0.5])
    assert found.accuracy == 0.9
    assert found.forgetting_max is found.forgetting_first_last is found.backward is None
    assert found.forward is None


def test_a_cell_that_was_not_measured_leaves_out_what_needs_it_alone() -> None:
    """The best of a segment is the best of what was measured."""
    gap = np.array(RESULTS)
    gap[0, 0] = np.nan  # no probe was there yet after stage 0
    assert forgotten_max(gap)[0] == pytest.approx(0.3)
    assert np.isnan(forgotten_first_last(gap)[0])
    assert transfer(gap).backward == pytest.approx(0.05)


def test_what_is_not_a_stage_a_segment_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        transfer(RESULTS[:2])
    with pytest.raises(ValueError, match=r"\(2,\)"):
        transfer(RESULTS, START[:2])
