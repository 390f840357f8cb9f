"""Every ranking loss keeps what `rankings/base.py` promises, and is the formula of its paper."""

from __future__ import annotations

import math
import pkgutil

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from torch import Tensor

from stream_mtl import rankings
from stream_mtl.rankings import RANKINGS
from stream_mtl.rankings.base import Ranking
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Place, Settings

ALL = [pytest.param(ranking, id=name) for name, ranking in RANKINGS.items()]
Lists = tuple[Tensor, Tensor, Tensor, Tensor]


def lists(count: int = 6, seed: int = 0) -> Lists:
    """Logits (B x 2), labels, known, keys of lists of 1 to 6 rows with 0 to 3 positives."""
    random = torch.Generator().manual_seed(seed)
    size_N = torch.randint(1, 7, (count,), generator=random)
    key_B = torch.repeat_interleave(torch.randperm(count, generator=random) + 10, size_N)
    logit_B2 = 2 * torch.randn(len(key_B), 2, generator=random, dtype=torch.float64)
    label_B = (torch.rand(len(key_B), generator=random) < 0.35).double()
    return logit_B2, label_B, torch.rand(len(key_B), generator=random) < 0.85, key_B


def loss_of(ranking: Ranking, rows: Lists) -> Tensor:
    logit_B2, label_B, mask_B, key_B = rows
    return ranking.loss(logit_B2[:, : ranking.width], label_B, mask_B, key_B)


@pytest.mark.parametrize("ranking", ALL)
def test_unknown_rows_have_no_loss_and_do_not_count_in_their_list(ranking: Ranking) -> None:
    logit_B2, label_B, mask_B, key_B = lists(30)
    loss_B = loss_of(ranking, (logit_B2, label_B, mask_B, key_B))
    alone_B = loss_of(ranking, (logit_B2[mask_B], label_B[mask_B], mask_B[mask_B], key_B[mask_B]))
    assert (loss_B[~mask_B] == 0).all()
    torch.testing.assert_close(loss_B[mask_B], alone_B)


@pytest.mark.parametrize("ranking", ALL)
def test_lists_do_not_see_each_other(ranking: Ranking) -> None:
    logit_B2, label_B, mask_B, key_B = lists(30)
    whole_B = loss_of(ranking, (logit_B2, label_B, mask_B, key_B))
    one_B = key_B == key_B[0]
    alone_B = loss_of(ranking, (logit_B2[one_B], label_B[one_B], mask_B[one_B], key_B[one_B]))
    torch.testing.assert_close(whole_B[one_B], alone_B)


@pytest.mark.parametrize("ranking", ALL)
def test_descent_puts_the_positives_first(ranking: Ranking) -> None:
    logit_B2, label_B, _, key_B = lists(20)
    known_B = torch.ones_like(label_B, dtype=torch.bool)
    for _ in range(150):
        logit_B2 = logit_B2.detach().requires_grad_()
        loss = loss_of(ranking, (logit_B2, label_B, known_B, key_B)).sum()
        (gradient_B2,) = torch.autograd.grad(loss, logit_B2)
        logit_B2 = logit_B2 - 0.5 * gradient_B2
    for key in key_B.unique():
        score, label = logit_B2[key_B == key, 0], label_B[key_B == key] > 0
        if label.any() and not label.all():
            assert score[label].min() > score[~label].max()


@pytest.mark.parametrize("ranking", ALL)
def test_no_rows_give_no_loss(ranking: Ranking) -> None:
    empty = torch.zeros(0)
    assert ranking.loss(torch.zeros(0, 2), empty, empty.bool(), empty.long()).shape == (0,)


@pytest.mark.parametrize("ranking", [p for p in ALL if p.id != "jrc"])
def test_a_positive_that_counts_three_times_has_three_times_the_loss(ranking: Ranking) -> None:
    """Inverse propensities (Joachims et al., WSDM 2017): the only positive of a list must not lose its weight."""
    logit_B2, _, _, _ = lists()
    logit_B2, label_B, key_B = logit_B2[:4], torch.tensor([0.0, 1, 0, 0]).double(), torch.zeros(4)
    known_B = torch.ones(4, dtype=torch.bool)
    once_B = loss_of(ranking, (logit_B2, label_B, known_B, key_B.long()))
    thrice_B = loss_of(ranking, (logit_B2, 3 * label_B, known_B, key_B.long()))
    assert once_B.sum() > 0
    torch.testing.assert_close(thrice_B, 3 * once_B)


def test_every_file_is_registered() -> None:
    files = {m.name for m in pkgutil.iter_modules(rankings.__path__)} - {"base"}
    assert files == {type(one).__module__.rsplit(".", 1)[1] for one in RANKINGS.values()}


def test_lambdas_are_what_ndcg_loses_by_a_swap_times_the_pair_s_gradient() -> None:
    """Against scikit-learn's NDCG: swap two scores of a list, see what is lost, weigh the logistic pair's gradient by it."""
    logit_B2, label_B, _, key_B = lists(40, seed=4)
    known_B = torch.ones_like(label_B, dtype=torch.bool)
    logit_B2.requires_grad_()
    loss_of(RANKINGS["lambdarank"], (logit_B2, label_B, known_B, key_B)).sum().backward()
    assert logit_B2.grad is not None
    score, label = logit_B2.detach()[:, 0].numpy(), label_B.numpy()
    expected = np.zeros(len(score))
    for key in key_B.unique().tolist():
        rows = np.flatnonzero(key_B.numpy() == key)
        if len(rows) < 2 or not label[rows].any():
            continue
        for i in rows[label[rows] == 1]:
            for j in rows[label[rows] == 0]:
                swapped = score.copy()
                swapped[i], swapped[j] = score[j], score[i]
                loss = abs(
                    ndcg_score([label[rows]], [score[rows]])
                    - ndcg_score([label[rows]], [swapped[rows]])
                )
                push = loss / math.log(2) / (1 + math.exp(score[i] - score[j]))
                expected[i] -= push
                expected[j] += push
    np.testing.assert_allclose(logit_B2.grad[:, 0].numpy(), expected, atol=1e-6)
    assert np.abs(expected).max() > 0.1


def test_jrc_is_the_formula_of_its_paper() -> None:
    """Sheng et al., KDD 2023, a = 1/2, row by row from f_0 and f_1."""
    logit_B2, label_B, mask_B, key_B = lists(12, seed=2)
    kind = TASKS["listwise"](Place(0, 0, 2), Settings(ranking="jrc"))
    loss_B = kind.loss(logit_B2, label_B, mask_B, key_B, ~mask_B)
    f = np.stack((logit_B2[:, 1], logit_B2[:, 0] + logit_B2[:, 1]), 1)
    known, label, key = mask_B.numpy(), label_B.numpy().astype(int), key_B.numpy()
    for i in range(len(f)):
        expected = 0.0
        if known[i]:
            y = label[i]
            pointwise = -math.log(math.exp(f[i, y]) / (math.exp(f[i, 0]) + math.exp(f[i, 1])))
            context = [j for j in range(len(f)) if key[j] == key[i] and known[j]]
            listwise = -math.log(math.exp(f[i, y]) / sum(math.exp(f[j, y]) for j in context))
            expected = 0.5 * pointwise + 0.5 * listwise
        assert loss_B[i].item() == pytest.approx(expected, abs=1e-9)
    assert kind.score(logit_B2)[0].item() == pytest.approx(1 / (1 + math.exp(f[0, 0] - f[0, 1])))
