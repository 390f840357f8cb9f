"""The publish gate on simulated champions and challengers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from stream_mtl.gate import Limits, Window, decide, difference
from stream_mtl.paired import evidence_of_harm, resampled_means

Floats = npt.NDArray[np.float64]
QUICK = Limits(resamples=300)


def losses(logit_N: Floats, label_N: Floats) -> Floats:
    return np.logaddexp(0.0, np.where(label_N > 0.5, -logit_N, logit_N))


def window(
    seed: int = 0, better: float = 0.0, users: int = 300, rows: int = 10, tilt: float = 0.5
) -> Window:
    """A challenger whose logits are nearer to the truth by `better`, or farther where it is negative.

    Both models err by user: `tilt` is what a user's rows share, so rows are far from independent.
    """
    random = np.random.default_rng(seed)
    user_N = np.repeat(np.arange(users), rows)
    truth_N = random.normal(-1.5, 1.0, users * rows)
    label_N = (random.random(len(truth_N)) < 1 / (1 + np.exp(-truth_N))).astype(float)
    errors = [
        random.normal(0, 0.3, len(truth_N)) + random.normal(0, tilt, users)[user_N]
        for _ in range(2)
    ]
    champion_N = truth_N + errors[0] * (1 + max(better, 0.0))
    challenger_N = truth_N + errors[1] * (1 + max(-better, 0.0))
    return Window(
        user_N,
        label_N,
        losses(champion_N, label_N),
        losses(challenger_N, label_N),
        predicted=float(label_N.sum()),
    )


def test_a_better_challenger_is_promoted_and_told_why() -> None:
    verdict = decide({"click": window(better=1.5), "purchase": window(1, better=1.0)}, "click")
    assert verdict.decision == "promote"
    assert verdict.reasons[0].startswith("click: normalised entropy -0.")


def test_a_challenger_without_an_effect_is_rarely_promoted() -> None:
    """At most about alpha of 400 windows (5 % +- 2.5 standard errors)."""
    promoted = sum(
        decide({"click": window(seed)}, "click", QUICK, seed).decision == "promote"
        for seed in range(400)
    )
    assert promoted / 400 <= 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 400)


def test_rows_drawn_one_by_one_would_promote_by_chance() -> None:
    """Power: why whole users are drawn. The same windows, each row its own user."""
    promoted = 0
    for seed in range(100):
        rows = window(seed, tilt=1.5, rows=30, users=100)
        alone = replace(rows, user_N=np.arange(len(rows.user_N)))
        promoted += decide({"click": alone}, "click", QUICK, seed).decision == "promote"
    assert promoted > 15


def test_a_worse_challenger_is_held_back_and_rolled_back_when_it_serves() -> None:
    worse = {"click": window(better=-2.0)}
    assert decide(worse, "click").decision == "hold back"
    served = decide(worse, "click", serving=True)
    assert served.decision == "roll back"
    assert "worse beyond doubt" in served.reasons[0]


def test_harm_to_another_task_holds_back_what_helps_the_target() -> None:
    verdict = decide({"click": window(better=2.0), "purchase": window(1, better=-1.0)}, "click")
    assert verdict.decision == "hold back"
    assert "purchase" in verdict.reasons[0]


def test_broken_calibration_is_held_back_and_rolled_back_when_it_serves() -> None:
    """However much better the order is."""
    rows = window(better=2.0)
    broken = {"click": replace(rows, predicted=1.5 * float(rows.label_N.sum()))}
    assert decide(broken, "click").decision == "hold back"
    assert decide(broken, "click", serving=True).decision == "roll back"
    assert "calibration 1.500" in decide(broken, "click").reasons[0]


def test_a_calibration_that_is_only_unlucky_is_not_rolled_back() -> None:
    """Few positives: out of the band by less than four standard errors."""
    rows = window(better=2.0, users=100, rows=2)
    unlucky = {"click": replace(rows, predicted=1.2 * float(rows.label_N.sum()))}
    assert decide(unlucky, "click", serving=True).decision == "hold back"


@pytest.mark.parametrize("what", ["forgetting", "fairness_growth"])
def test_limits_of_the_anchors_and_of_groups_hold_back(what: str) -> None:
    rows = window(better=2.0)
    assert decide({"click": replace(rows, **{what: 0.005})}, "click").decision == "promote"
    assert decide({"click": replace(rows, **{what: 0.03})}, "click").decision == "hold back"


def test_heavy_forgetting_is_rolled_back_when_it_serves() -> None:
    forgot = {"click": replace(window(better=2.0), forgetting=0.1)}
    assert decide(forgot, "click", serving=True).decision == "roll back"


def test_a_challenger_without_an_effect_is_rarely_rolled_back_however_often_one_looks() -> None:
    """300 lineages, looked at after every 10 users up to 500; a z-test would cry wolf in a third."""
    crossed = peeked = 0
    for seed in range(300):
        part_U = np.random.default_rng(seed).normal(0, 0.3, 500)
        looks = [part_U[:n] for n in range(100, 501, 10)]
        crossed += any(evidence_of_harm(part, 0.02) >= 1 / 0.05 for part in looks)
        peeked += any(p.mean() / p.std() * np.sqrt(len(p)) > 1.645 for p in looks)
    assert crossed <= 0.05 * 300
    assert peeked > 0.15 * 300


def test_evidence_equals_the_formula_worked_by_hand() -> None:
    """n = 4, mean .5, V = 1/3, τ² = 1: √(V/(V+4)) exp(16 * .25 / (2 V (V + 4)))."""
    part_U = np.array([0.0, 1.0, 0.0, 1.0])
    v = 1 / 3
    expected = np.sqrt(v / (v + 4)) * np.exp(4 / (2 * v * (v + 4)))
    assert evidence_of_harm(part_U, 1.0) == pytest.approx(expected)
    assert evidence_of_harm(-part_U, 1.0) == 0


def test_the_bootstrap_s_spread_is_that_of_the_mean() -> None:
    """Independent users: standard error s / √n."""
    part_U = np.random.default_rng(0).normal(0, 1, 1_000)
    mean_R = resampled_means(part_U, np.ones(1_000), 2_000, seed=3)
    assert mean_R.std() == pytest.approx(part_U.std() / np.sqrt(1_000), rel=0.1)
    assert mean_R.mean() == pytest.approx(part_U.mean(), abs=0.01)


def test_the_difference_is_that_of_normalised_entropies() -> None:
    from stream_mtl.prequential import normalized_entropy

    rows = window(better=1.0)
    labels, positives = len(rows.label_N), float(rows.label_N.sum())
    champion, challenger = (
        normalized_entropy(labels, positives, float(loss.sum()))
        for loss in (rows.champion_N, rows.challenger_N)
    )
    assert champion is not None
    assert challenger is not None
    gap = difference(rows, QUICK, seed=0)
    assert gap.mean == pytest.approx(challenger - champion)
    assert gap.low < gap.mean < gap.high


def test_the_same_windows_and_seed_give_the_same_verdict() -> None:
    rows = {"click": window(better=0.2)}
    assert decide(rows, "click", seed=5) == decide(rows, "click", seed=5)


def test_too_little_to_judge_by_holds_back() -> None:
    few = window(better=2.0, users=20)
    assert "20 users" in decide({"click": few}, "click").reasons[0]
    rows = window(better=2.0)
    one = replace(rows, label_N=np.zeros(len(rows.label_N)))
    assert "one class" in decide({"click": one}, "click").reasons[0]


def test_losses_that_are_not_finite_never_pass() -> None:
    rows = window(better=2.0)
    rows.challenger_N[3] = np.nan
    assert decide({"click": rows}, "click").decision == "hold back"
    assert decide({"click": rows}, "click", serving=True).decision == "roll back"


def test_a_target_without_a_window_and_torn_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="search"):
        decide({"click": window()}, "search")
    rows = window()
    with pytest.raises(ValueError, match="lengths"):
        decide({"click": replace(rows, label_N=rows.label_N[1:])}, "click")
