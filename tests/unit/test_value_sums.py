"""What is told of tasks that are no yes or no, against sklearn and by definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss, mean_absolute_error, r2_score

from stream_mtl import config as settings
from stream_mtl.batch import Batch
from stream_mtl.evaluation import Evaluation
from stream_mtl.tasks import TASKS
from stream_mtl.tasks.base import Place, Settings
from stream_mtl.testing_rows import SPEC, rows
from stream_mtl.value_sums import ValueSums

KINDS = [
    TASKS["binary"](Place(0, 0), Settings()),
    TASKS["multiclass"](Place(1, 1, 4), Settings(classes=4)),
    TASKS["regression"](Place(2, 5), Settings()),
]
SPEC_3 = replace(SPEC, tasks=("click", "intent", "dwell"))
RANDOM = np.random.default_rng(4)


def said_classes(count: int) -> tuple[np.ndarray, np.ndarray]:
    label_N = RANDOM.integers(0, 4, count)
    odds_NW = RANDOM.exponential(size=(count, 4)) + 1.5 * np.eye(4)[label_N]
    return odds_NW / odds_NW.sum(1, keepdims=True), label_N.astype(float)


def test_classes_are_judged_as_sklearn_does() -> None:
    said_NW, label_N = said_classes(900)
    sums = ValueSums("class_entropy", 4)
    for part in np.array_split(np.arange(900), 7):
        sums.add(said_NW[part], label_N[part])
    quality, best_N = sums.quality(), said_NW.argmax(1)
    share_C = np.bincount(label_N.astype(int)) / 900
    entropy = -(share_C * np.log(share_C)).sum()
    assert quality["labels"] == 900
    assert quality["accuracy"] == pytest.approx(accuracy_score(label_N, best_N))
    assert quality["macro_f1"] == pytest.approx(f1_score(label_N, best_N, average="macro"))
    assert quality["normalized_entropy"] == pytest.approx(log_loss(label_N, said_NW) / entropy)


def test_numbers_are_judged_as_sklearn_does() -> None:
    """Normalised: the part of the variance that is not explained."""
    label_N = RANDOM.normal(3, 2, 500)
    said_N = label_N + RANDOM.normal(0, 1, 500)
    sums = ValueSums("variance", 1)
    sums.add(said_N[:, None], label_N)
    quality = sums.quality()
    assert quality["mae"] == pytest.approx(mean_absolute_error(label_N, said_N))
    assert quality["rmse"] == pytest.approx(np.sqrt(np.square(said_N - label_N).mean()))
    assert quality["normalized_entropy"] == pytest.approx(1 - r2_score(label_N, said_N))


def test_nothing_is_told_of_nothing_and_a_constant_label_has_no_normalised_loss() -> None:
    assert ValueSums("variance", 1).quality() == {"labels": 0}
    constant = ValueSums("variance", 1)
    constant.add(np.ones((5, 1)), np.full(5, 2.0))
    assert constant.quality()["normalized_entropy"] is None
    assert constant.quality()["rmse"] == 1.0


def labelled(count: int, first: int = 0) -> tuple[torch.Tensor, Batch]:
    """Served columns and labels: intent known of every second row, dwell of every third."""
    narrow = rows(count, first=first)
    said_NW, class_N = said_classes(count)
    dwell_N = RANDOM.normal(5, 2, count)
    label_BT = torch.stack(
        (narrow.label_BT[:, 0], torch.tensor(class_N), torch.tensor(dwell_N)), 1
    ).float()
    number_B = torch.arange(count)
    mask_BT = torch.stack((number_B >= 0, number_B % 2 == 0, number_B % 3 == 0), 1)
    served_BC = torch.cat(
        (torch.full((count, 1), 0.25), torch.tensor(said_NW), torch.tensor(dwell_N + 1)[:, None]), 1
    ).float()
    return served_BC, replace(narrow, label_BT=label_BT, mask_BT=mask_BT)


def test_every_task_is_judged_on_its_own_columns_and_known_labels() -> None:
    evaluation = Evaluation(settings.Evaluation(), SPEC_3, kinds=KINDS)
    served_BC, batch = labelled(1_200)
    evaluation.observe(served_BC, batch)
    summary = evaluation.summary()
    assert [summary[name]["labels"] for name in SPEC_3.tasks] == [1_200, 600, 400]
    assert summary["dwell"]["rmse"] == pytest.approx(1, abs=1e-5)
    assert summary["dwell"]["auc"] is None
    known_B = batch.mask_BT[:, 1]
    right = (served_BC[known_B, 1:5].argmax(1) == batch.label_BT[known_B, 1]).float().mean()
    assert summary["intent"]["accuracy"] == pytest.approx(float(right))
    assert summary["click"]["calibration"] == pytest.approx(1, abs=1e-5)


def test_an_evaluation_of_all_kinds_goes_on_after_a_restore() -> None:
    one, two = (Evaluation(settings.Evaluation(), SPEC_3, kinds=KINDS) for _ in range(2))
    parts = [labelled(300, first=300 * n) for n in range(6)]
    for served_BC, batch in parts[:3]:
        one.observe(served_BC, batch)
    two.restore(one.state())
    for served_BC, batch in parts[3:]:
        one.observe(served_BC, batch)
        two.observe(served_BC, batch)
    assert one.summary() == two.summary()
    assert one.faded() == two.faded()


def test_what_came_after_earlier_sums_is_judged_by_its_own_rows() -> None:
    """As an evaluation that saw nothing else, wherever the blocks of waiting rows end."""
    whole, later = (Evaluation(settings.Evaluation(), SPEC_3, kinds=KINDS) for _ in range(2))
    parts = [labelled(300, first=300 * n) for n in range(5)]
    for served_BC, batch in parts[:3]:
        whole.observe(served_BC, batch)
    earlier = whole.totals()
    for served_BC, batch in parts[3:]:
        whole.observe(served_BC, batch)
        later.observe(served_BC, batch)
    found, wanted = whole.qualities(whole.totals().since(earlier)), later.summary()
    for name, quality in wanted.items():
        for metric, value in quality.items():
            if metric != "gauc":  # users within a block, and blocks end elsewhere
                assert found[name][metric] == pytest.approx(value), (name, metric)
    assert wanted["dwell"]["rmse"] is not None
    assert whole.totals().since(whole.totals()).rates.total_TK.sum() == 0


def test_probes_of_classes_and_numbers_forget_in_their_own_measure() -> None:
    """A model that was right and now says one thing of everything: it lost what it had above that."""
    evaluation = Evaluation(settings.Evaluation(probe_rows=400), SPEC_3, kinds=KINDS)
    batch = labelled(2_400)[1]
    batch = replace(batch, mask_BT=torch.ones_like(batch.mask_BT))
    evaluation.add_probes(batch, torch.rand(len(batch), 6))

    def right(probe: Batch) -> torch.Tensor:
        class_BW = torch.eye(4)[probe.label_BT[:, 1].long()]
        return torch.cat((probe.label_BT[:, :1], class_BW, probe.label_BT[:, 2:]), 1)

    def blunt(probe: Batch) -> torch.Tensor:
        return torch.tensor([[0.5, 1.0, 0.0, 0.0, 0.0, 5.0]]).expand(len(probe), -1)

    evaluation.evaluate_probes(right)
    assert [evaluation.summary()[n]["forgetting"] for n in SPEC_3.tasks] == [0.0, 0.0, 0.0]
    evaluation.evaluate_probes(blunt)
    click, intent, dwell = (evaluation.summary()[n]["forgetting"] for n in SPEC_3.tasks)
    assert click == pytest.approx(0.5)
    assert intent is not None
    assert 0.65 < intent < 0.85
    assert dwell == pytest.approx(1, abs=0.05)
