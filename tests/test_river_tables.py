"""River's tables under our evaluator, and our learner on its streams."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.river_tables import LATE, Ours, Peer, load, peers, prequential, rivers_own


def test_rivers_logistic_regression_gives_the_printed_digits() -> None:
    """Phishing, SGD .005: accuracy .8872, F1 .871233; log loss as river's own evaluator says."""
    rows, new = load("Phishing"), peers()["logistic regression"]
    outcome = prequential(Peer(new()), rows)
    assert round(outcome.value("accuracy"), 6) == 0.8872
    assert round(outcome.value("f1"), 6) == 0.871233
    assert outcome.value("log_loss") == pytest.approx(rivers_own(new(), rows, "log_loss"))


def test_a_row_without_a_prediction_is_not_judged() -> None:
    """The first of a model that repeats the last class: 644 of 1,249, not of 1,250."""
    outcome = prequential(Peer(peers()["last class"]()), load("Phishing"))
    assert len(outcome.classes) == 1_249
    assert round(outcome.value("accuracy"), 6) == 0.515612


@pytest.mark.parametrize("delay", LATE)
def test_labels_that_come_late_cost_what_they_cost_in_river(delay: int) -> None:
    rows, new = load("Phishing"), peers()["logistic regression"]
    outcome = prequential(Peer(new()), rows, delay)
    assert outcome.value("accuracy") == pytest.approx(rivers_own(new(), rows, "accuracy", delay))
    assert (round(outcome.value("accuracy"), 6), round(outcome.value("log_loss"), 6)) == LATE[delay]


def test_the_learner_looks_ahead_at_nothing() -> None:
    """What it says of the first 60 rows is the same whatever the labels from row 60 on are."""
    rows = load("Bananas")[:80]
    turned = [(x, y if i < 60 else not y) for i, (x, y) in enumerate(rows)]
    longer = [*rows[:60], *[({k: v * 100 for k, v in x.items()}, y) for x, y in rows[60:]]]
    first, second, third = (
        prequential(Ours(2, seed=3), each).said.said_N for each in (rows, turned, longer)
    )
    assert np.array_equal(first[:61], second[:61])  # its own label cannot move row 60
    assert not np.array_equal(first[61:], second[61:])
    assert np.array_equal(first[:60], third[:60])


def test_the_learner_finds_the_bananas_that_a_line_cannot() -> None:
    """1,000 rows: river's logistic regression is at chance there."""
    rows = load("Bananas")[:1_000]
    ours = prequential(Ours(2, seed=3), rows).value("accuracy")
    line = prequential(Peer(peers()["logistic regression"]()), rows).value("accuracy")
    assert line < 0.6
    assert ours > 0.75
