"""Places that are looked at less: what a click there is worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stream_mtl.batch import Batch
from stream_mtl.config import Config
from stream_mtl.joint_loss import join_rows, task_losses
from stream_mtl.learner import Learner
from stream_mtl.propensity import from_bias, from_swaps
from stream_mtl.task_columns import task_kinds
from stream_mtl.tasks.base import TaskKind
from stream_mtl.testing_rows import SPEC, rows

THETA_P = (1.0, 0.6, 0.3, 0.15)
IPW = {"position": "ipw", "propensities": THETA_P}


def tasks(**click: Any) -> Config:
    return Config.model_validate(
        {
            "tasks": {
                "click": {"kind": "binary", **click},
                "purchase": {"kind": "funnel", "after": "click"},
                "search": {"kind": "listwise"},
            }
        }
    )


def kinds(**click: Any) -> list[TaskKind]:
    return task_kinds(SPEC, tasks(**click))


def shop(count: int = 60_000, seed: int = 0) -> tuple[Batch, Tensor]:
    """Clicks on lists of four that are looked at as THETA_P says; and whether each row's item is good.

    A good item is clicked half the time it is looked at, another a tenth; the good ones stand further down.
    """
    rng = np.random.default_rng(seed)
    place_B = np.arange(count) % 4 + 1
    good_B = rng.random(count) < 0.15 * place_B
    seen_B = rng.random(count) < np.array(THETA_P)[place_B - 1]
    click_B = seen_B & (rng.random(count) < np.where(good_B, 0.5, 0.1))
    batch = rows(count)
    label_BT = torch.zeros_like(batch.label_BT)
    label_BT[:, 0] = torch.from_numpy(click_B).float()
    mask_BT = torch.zeros_like(batch.mask_BT)
    mask_BT[:, 0] = True
    place_B = torch.from_numpy(place_B)
    return replace(batch, label_BT=label_BT, mask_BT=mask_BT, position_B=place_B), torch.from_numpy(
        good_B
    )


def learned(kinds: list[TaskKind], batch: Batch, good_B: Tensor) -> list[float]:
    """The rates of other and of good items that two logits learn by the joint loss."""
    logit_2 = torch.full((2,), -1.0, requires_grad=True)
    search = torch.optim.LBFGS([logit_2], 0.5, max_iter=100, line_search_fn="strong_wolfe")
    joint = join_rows(batch, [])

    def loss() -> Tensor:
        search.zero_grad()
        logit_BC = torch.zeros(len(batch), 3).index_put(
            (torch.arange(len(batch)), torch.zeros(len(batch)).long()), logit_2[good_B.long()]
        )
        one = task_losses(joint, logit_BC, kinds, torch.ones(3))[0]
        one.backward()  # type: ignore[no-untyped-call]
        return one

    search.step(loss)  # type: ignore[no-untyped-call]
    found: list[float] = logit_2.detach().sigmoid().tolist()
    return found


def test_inverse_propensities_find_how_good_items_are_wherever_they_stand() -> None:
    """The rate of a looked-at item is recovered; without weights it comes out less than half as high."""
    batch, good_B = shop()
    assert learned(kinds(**IPW), batch, good_B) == pytest.approx([0.1, 0.5], rel=0.06)
    other, good = learned(kinds(position="none"), batch, good_B)
    assert good < 0.25
    assert other < 0.08


def test_propensities_below_a_tenth_count_as_a_tenth_and_unknown_places_as_looked_at() -> None:
    batch = rows(4)
    batch = replace(batch, position_B=torch.tensor([0, 1, 2, 9]), label_BT=torch.ones(4, 3))
    logit_BC = torch.zeros(4, 3)
    low = kinds(position="ipw", propensities=(1.0, 0.01))
    at_tenth = kinds(position="ipw", propensities=(1.0, 0.1))

    def loss(kinds: list[TaskKind], row: int) -> float:
        joint = join_rows(batch.rows(row, row + 1), [])
        return float(task_losses(joint, logit_BC[row : row + 1], kinds, torch.ones(3))[0])

    for row in range(4):
        assert loss(low, row) == loss(at_tenth, row)
    assert loss(low, 0) == loss(low, 1) == loss(kinds(), 0)
    assert loss(low, 2) == loss(low, 3) == pytest.approx(loss(kinds(), 0))  # BCE at 0: whatever y


def test_a_funnel_follows_the_propensities_of_its_first_step() -> None:
    assert kinds(**IPW)[1].propensities == THETA_P
    assert kinds()[1].propensities == ()


def test_rehearsed_rows_count_as_often_as_fresh_ones() -> None:
    """A memory keeps places, so that the weights follow: the same row twice has the same loss."""
    config = tasks(**IPW)
    learner = Learner(SPEC, config, torch.device("cpu"))
    for first in range(0, 400, 100):
        report = learner.step(rows(100, first=first))
    assert report.rehearsed > 0
    kept = learner._memories[0].take(np.arange(5))
    places_B = {int(k): int(p) for n in range(0, 400, 100) for k, p in _places(rows(100, first=n))}
    assert [places_B[int(k)] for k in kept.batch.row_key_B] == kept.batch.position_B.tolist()


def _places(batch: Batch) -> list[tuple[int, int]]:
    return list(zip(batch.row_key_B.tolist(), batch.position_B.tolist(), strict=True))


@pytest.mark.parametrize("position", ["ipw", "none"])
def test_without_a_bias_the_place_changes_no_prediction(position: str) -> None:
    given = {"position": position} | ({"propensities": THETA_P} if position == "ipw" else {})
    learner = Learner(SPEC, tasks(**given), torch.device("cpu"))
    biased = Learner(SPEC, tasks(), torch.device("cpu"))
    for one in (learner, biased):
        for first in range(0, 400, 100):
            one.step(rows(100, first=first))
    shown, first_place = (
        rows(20, seed=5),
        replace(rows(20, seed=5), position_B=torch.ones(20).long()),
    )
    click = slice(0, 1)
    same = learner.predict(shown).prob_BT[:, click], learner.predict(first_place).prob_BT[:, click]
    torch.testing.assert_close(*same)
    other = biased.predict(shown).prob_BT[:, click], biased.predict(first_place).prob_BT[:, click]
    assert not torch.allclose(*other, rtol=1e-3)


def test_swapped_places_tell_their_propensities() -> None:
    """Items on random places: the ratio of click rates is the ratio of being looked at."""
    assert from_swaps([100, 120, 150, 0], [1000, 2000, 1000, 0]) == pytest.approx((1, 0.6, 1, 1))
    with pytest.raises(ValueError, match="first place"):
        from_swaps([0, 0, 0], [1, 1, 1])


def test_a_learned_bias_tells_the_propensities_of_rare_clicks() -> None:
    """With clicks rare, odds are rates: exp(b_k - b_1) is theta_k. Never above that of the first place."""
    bias_P = torch.tensor([9.0, 0.3, 0.3 + np.log(0.6), 0.3 + np.log(0.3), 0.5])
    assert from_bias(bias_P) == pytest.approx((1.0, 0.6, 0.3, 1.0))
