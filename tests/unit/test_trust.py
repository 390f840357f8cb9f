"""A model earns its say: it is served where it ranks better than its candidates' order, else that order."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stream_mtl.batch import Batch
from stream_mtl.config import Config
from stream_mtl.state import digest
from stream_mtl.task_columns import task_kinds
from stream_mtl.testing_rows import SPEC, rows
from stream_mtl.trust import Trust


def fresh() -> Trust:
    return Trust(task_kinds(SPEC, Config()), torch.device("cpu"))


def lists(first: int = 0) -> Batch:
    return rows(400, first=first, list_rows=10)


def taught(trust: Trust, good: str) -> Trust:
    """Twenty steps in which the `good` one of model and prior knows the clicks and the other does not."""
    for step in range(20):
        batch = lists(400 * step)
        noise_B, knows_B = 10 * torch.randn(400), batch.label_BT[:, 0] * 3
        model_B, prior_B = (knows_B, noise_B) if good == "model" else (noise_B, knows_B)
        trust.observe(torch.stack([model_B] * 3, 1), replace(batch, prior_B=prior_B))
    return trust


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def serve(trust: Trust, logit_BT: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Click logits as served."""
    return trust.serve(logit_BT, batch)[:, 0]


def test_a_new_model_serves_the_order_of_its_candidates() -> None:
    batch = lists()
    served_B = serve(fresh(), torch.randn(400, 3), batch)
    assert torch.equal(served_B.argsort(), batch.prior_B.argsort())


def test_a_model_that_ranks_worse_than_its_candidates_publishes_their_order() -> None:
    batch, trust = lists(), taught(fresh(), "prior")
    served_B = serve(trust, torch.randn(400, 3), batch)
    assert torch.equal(served_B.argsort(), batch.prior_B.argsort())


def test_a_model_that_ranks_better_is_served_as_it_is() -> None:
    trust = taught(fresh(), "model")
    logit_BT = torch.randn(400, 3)
    assert torch.equal(serve(trust, logit_BT, lists()), logit_BT[:, 0])


def test_trust_comes_back_when_the_model_has_caught_up() -> None:
    trust = taught(fresh(), "prior")
    for _ in range(5):
        taught(trust, "model")
    assert trust.of(0, 0) == 1.0


def test_what_a_model_has_earned_in_one_domain_says_nothing_of_another() -> None:
    trust = taught(fresh(), "model")
    assert (trust.of(0, 0), trust.of(0, 1)) == (1.0, 0.0)
    batch = replace(lists(), domain_B=torch.ones(400, dtype=torch.int64))
    served_B = serve(trust, torch.randn(400, 3), batch)
    assert torch.equal(served_B.argsort(), batch.prior_B.argsort())


def test_a_task_without_a_prior_is_left_alone() -> None:
    trust, logit_BT = taught(fresh(), "prior"), torch.randn(400, 3)
    purchase = SPEC.tasks.index("purchase")
    assert torch.equal(trust.serve(logit_BT, lists())[:, purchase], logit_BT[:, purchase])


def test_items_of_different_sampling_strata_are_not_ranked_against_each_other() -> None:
    """Candidates beat drawn items by construction: such pairs say nothing about the order of a list."""
    batch, trust = lists(), fresh()
    apart = replace(batch, offset_B=batch.label_BT[:, 0] * 5)
    trust.observe(torch.stack([batch.label_BT[:, 0]] * 3, 1), apart)
    assert trust.of(0, 0) == 0.0
    trust.observe(torch.stack([batch.label_BT[:, 0] * 9] * 3, 1), batch)
    assert trust.of(0, 0) > 0.0


def test_the_order_of_the_candidates_becomes_a_probability() -> None:
    """Slope and level follow the labels, so that a model without a say still serves sound numbers."""
    trust = fresh()
    for step in range(200):
        batch = lists(400 * step)
        chance_B = torch.sigmoid(0.5 * batch.prior_B - 1.0)
        clicked_BT = (torch.rand(400) < chance_B).float().unsqueeze(1).repeat(1, 3)
        trust.observe(torch.zeros(400, 3), replace(batch, label_BT=clicked_BT))
    batch = replace(lists(), domain_B=torch.ones(400, dtype=torch.int64))
    served_B = serve(trust, torch.zeros(400, 3), batch)
    assert served_B == pytest.approx(0.5 * batch.prior_B - 1.0, abs=0.15)


def test_restored_trust_serves_the_same() -> None:
    one, two = taught(fresh(), "model"), fresh()
    two.restore(one.state())
    logit_BT, batch = torch.randn(400, 3), lists()
    assert torch.equal(one.serve(logit_BT, batch), two.serve(logit_BT, batch))
    assert digest(one.state()) == digest(two.state())


def test_a_model_that_is_better_at_the_very_top_and_worse_below_gets_no_more_say_than_the_candidates() -> (
    None
):
    """A list shows a fifth of its candidates, all of which count. By the mean reciprocal rank the model would win."""
    trust, batch = fresh(), rows(400, list_rows=20)
    label_B = torch.zeros(400)
    label_B[::20] = 1.0  # one positive in each of 20 lists
    place_B = torch.arange(400) % 20
    first_B = torch.arange(400) // 20 % 5 < 2
    # the candidates put every positive third, the model two in five first and the others ninth
    prior_B = torch.where(label_B > 0, -2.5, -place_B.float())
    model_B = torch.where(label_B > 0, torch.where(first_B, 0.0, -8.5), -place_B.float())
    batch = replace(
        batch,
        prior_B=prior_B,
        label_BT=torch.stack([label_B] * 3, 1),
        mask_BT=torch.ones(400, 3, dtype=torch.bool),
        offset_B=torch.zeros(400),
    )
    reciprocal = {"prior": 1 / 3, "model": 0.4 + 0.6 / 9}
    assert reciprocal["model"] > reciprocal["prior"]
    for _ in range(5):
        trust.observe(torch.stack([model_B] * 3, 1), batch)
    assert trust.of(0, int(batch.domain_B[0])) == 0.0
