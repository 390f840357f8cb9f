"""Measures of quality against independent implementations."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import pytest
import torch
from river import metrics as river
from sklearn import metrics as sklearn

from stream_mtl.measures import MEASURES
from stream_mtl.measures.base import judged
from stream_mtl.measures.ndcg import Ndcg

Floats = npt.NDArray[np.float64]


def noisy(count: int = 2_000, seed: int = 0) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    said = np.round(1 / (1 + np.exp(-random.normal(-1, 1.5, count))), 2).clip(0.01, 0.99)  # ties
    return said, (random.random(count) < said).astype(float)


def classes(count: int = 500, seed: int = 0) -> tuple[Floats, Floats]:
    random = np.random.default_rng(seed)
    label = random.integers(0, 5, count)
    return np.where(random.random(count) < 0.6, label, random.integers(0, 5, count)), label


def over(name: str, said: Floats, label: Floats) -> float:
    value = MEASURES[name].over(judged(said, label))
    assert value is not None
    return value


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # as torcheval is imported
def test_normalised_entropy_equals_torcheval() -> None:
    """Its documented example, [.2, .3] against [1, 0] = 1.4183, and random rows."""
    from torcheval.metrics.functional import binary_normalized_entropy

    assert over("normalized_entropy", np.array([0.2, 0.3]), np.array([1, 0])) == pytest.approx(
        1.4183, abs=5e-5
    )
    said, label = noisy()
    theirs = float(binary_normalized_entropy(torch.tensor(said), torch.tensor(label)))
    assert over("normalized_entropy", said, label) == pytest.approx(theirs, rel=1e-6)
    assert over("rig", said, label) == pytest.approx(1 - theirs, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_measures_of_a_window_equal_scikit_learn(seed: int) -> None:
    said, label = noisy(seed=seed)
    assert over("auc", said, label) == pytest.approx(sklearn.roc_auc_score(label, said))
    assert over("log_loss", said, label) == pytest.approx(sklearn.log_loss(label, said))
    assert over("rmse", said, label) == pytest.approx(sklearn.root_mean_squared_error(label, said))
    assert over("mae", said, label) == pytest.approx(sklearn.mean_absolute_error(label, said))
    said, label = classes(seed=seed)
    assert over("accuracy", said, label) == pytest.approx(sklearn.accuracy_score(label, said))
    assert over("macro_f1", said, label) == pytest.approx(
        sklearn.f1_score(label, said, average="macro")
    )
    assert over("f1", said == 1, label == 1) == pytest.approx(
        sklearn.f1_score(label == 1, said == 1)
    )


@pytest.mark.parametrize("name,peer", [("accuracy", river.Accuracy), ("macro_f1", river.MacroF1)])
def test_labels_that_grow_are_counted_as_river_does(name: str, peer: type) -> None:
    """Row by row; class 4 appears after the others, and the value is the same at every row."""
    said, label = classes()
    said[:300], label[:300] = said[:300].clip(max=3), label[:300].clip(max=3)
    theirs = peer()
    for rows, (s, y) in enumerate(zip(said.tolist(), label.tolist(), strict=True), 1):
        theirs.update(y, s)
        assert over(name, said[:rows], label[:rows]) == pytest.approx(theirs.get())


def test_gauc_is_the_mean_of_users_aucs_by_rows() -> None:
    """Against scikit-learn user by user; those with one class only are left out."""
    said, label = noisy()
    user = np.random.default_rng(1).integers(0, 300, len(said))
    user[label == 0] %= 200  # users of 200 and more have positives alone
    total = rows = 0.0
    for u in np.unique(user):
        of = user == u
        if 0 < label[of].sum() < of.sum():
            total += of.sum() * sklearn.roc_auc_score(label[of], said[of])
            rows += of.sum()
    assert rows < len(said)
    assert MEASURES["gauc"].over(judged(said, label, user)) == pytest.approx(total / rows)


def test_what_ranks_users_alone_is_worth_nothing_to_gauc() -> None:
    """Power: a score that knows each user's rate and no more has a good AUC, and a GAUC of a half."""
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(200), 20)
    rate = random.random(200)[user]
    label = (random.random(len(user)) < rate).astype(float)
    assert over("auc", rate, label) > 0.7
    assert MEASURES["gauc"].over(judged(rate, label, user)) == pytest.approx(0.5)


@pytest.mark.parametrize("at", [1, 5, 10])
def test_ndcg_at_k_equals_scikit_learn(at: int) -> None:
    random = np.random.default_rng(at)
    said, label = random.random((40, 15)), random.integers(0, 2, (40, 15)).astype(float)
    label[:, 0] = 1.0
    rows = judged(said.ravel(), label.ravel(), np.repeat(np.arange(40), 15))
    assert Ndcg(at).over(rows) == pytest.approx(sklearn.ndcg_score(label, said, k=at))


def test_ece_is_the_gap_over_ten_bins_of_equal_mass() -> None:
    """By hand: sorted rows in ten parts, |mean said - mean label|, averaged."""
    random = np.random.default_rng(0)
    said = random.random(1_000) ** 4
    label = (random.random(1_000) < said**0.7).astype(float)
    order = np.argsort(said)
    bins = zip(np.split(said[order], 10), np.split(label[order], 10), strict=True)
    expected = np.mean([abs(s.mean() - y.mean()) for s, y in bins])
    assert over("ece", said, label) == pytest.approx(expected)
    ece = MEASURES["ece"]
    assert ece.value(ece.sums(judged(said, label))) == pytest.approx(expected, abs=2e-3)


def test_bins_of_equal_width_would_hide_a_bad_rare_event() -> None:
    """Power: nearly all rows lie in the first of ten equal widths, where errors cancel."""
    said = np.repeat([0.01, 0.03], 5_000)
    label = np.tile(np.repeat([0.0, 1.0], [98, 2]), 100)  # 2 % everywhere
    first = said < 0.1
    assert first.all()
    assert abs(said[first].mean() - label[first].mean()) < 1e-12
    assert over("ece", said, label) == pytest.approx(0.01)


def test_a_certain_mistake_costs_sixteen_nats_not_infinity() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert over("log_loss", np.array([0.0]), np.array([1.0])) == pytest.approx(16.1, abs=0.1)


def test_calibration_is_said_over_actual() -> None:
    assert over("calibration", np.array([0.3, 0.3]), np.array([1.0, 0.0])) == pytest.approx(0.6)
    assert MEASURES["calibration"].over(judged([0.3], [0.0])) is None
