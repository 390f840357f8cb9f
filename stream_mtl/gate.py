"""The publish gate: may a challenger take the champion's place, must it wait, or must it go?

Both models were judged on the same rows of one prequential window, so losses are compared in pairs. The rows of a
user are not independent: bounds come from a bootstrap that draws whole users (block bootstrap). The difference
of a task is told in normalised entropy, mean loss difference over the entropy of the window's base rate, so that
tasks compare; below 0 the challenger is better.

    promote    upper bound of the target's difference < 0, of every other task's < `tolerance`; calibration in
               its band, forgetting within its limit, and the fairness gap not grown by more than its limit
    roll back  only of a challenger that serves already: a sequential test finds harm in a task (it may be
               looked at as often as one likes), or calibration or forgetting is beyond doubt out of bounds
    hold back  everything else: say what is missing, keep learning, ask again on the next window

A pure function of its arguments. Ask about promotion once a window, of windows that do not overlap: each asking
has its own chance `alpha` of promoting what is no better. Legend: N rows, U users.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from stream_mtl import config
from stream_mtl.paired import evidence_of_harm, resampled_means
from stream_mtl.prequential import entropy

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Decision = Literal["promote", "hold back", "roll back"]


@dataclass(frozen=True, slots=True)
class Limits:
    alpha: float = 0.05  # chance to promote a challenger that is no better
    tolerance: float = 0.005  # normalised entropy that another task may lose
    calibration: tuple[float, float] = (0.9, 1.1)  # predicted over actual positives
    forgetting: float = 0.02  # AUC on frozen anchors, best so far less now
    fairness: float = 0.01  # growth of the gap between groups
    users: int = 100  # fewer do not bear a bootstrap
    resamples: int = 1_000
    harm_alpha: float = 0.01  # chance to roll back a challenger that does no harm, over all tasks
    # harms, in normalised entropy, that the sequential test is tuned to: one that waits for a small harm is
    # blind to a disaster in its first hundred users, and the mean of several tests is a test as well
    harm_scales: tuple[float, ...] = (0.02, 0.2, 2.0)
    sure: float = 4.0  # standard errors after which a calibration is broken, not unlucky


def limits(settings: config.Gate) -> Limits:
    """As configured."""
    return Limits(
        alpha=settings.alpha,
        tolerance=settings.tolerance,
        calibration=settings.calibration,
        forgetting=settings.forgetting,
        users=settings.users,
    )


@dataclass(frozen=True, slots=True)
class Window:
    """One task's rows of the window, judged for both models, and what else is known of the challenger."""

    user_N: Ints
    label_N: Floats
    champion_N: Floats  # log loss of each row
    challenger_N: Floats
    predicted: float | None  # Σ probabilities of the challenger; None: it says no probability
    forgetting: float | None = None  # None: no anchors are measured yet
    fairness_growth: float | None = None  # challenger's gap between groups less the champion's
    champion_predicted: float | None = None  # Σ probabilities of the champion, where it is known
    scale: float | None = None  # what a loss is divided by; None: the entropy of the labels' rate


@dataclass(frozen=True, slots=True)
class Verdict:
    decision: Decision
    reasons: tuple[str, ...]  # in words; for a promotion, what spoke for it


@dataclass(frozen=True, slots=True)
class Gap:
    """Users' parts in the difference of a task; their mean is the difference in normalised entropy.

    Of a task with a `scale` of its own, in units of that.
    """

    part_U: Floats
    low: float
    high: float

    @property
    def mean(self) -> float:
        return float(self.part_U.mean())


def decide(
    windows: Mapping[str, Window],
    target: str,
    limits: Limits = Limits(),
    seed: int = 0,
    serving: bool = False,
) -> Verdict:
    """`target`: the task for whose sake a challenger is promoted; `serving`: it publishes already.

    Raises ValueError when the target has no window or columns of a window differ in length.
    """
    if target not in windows:
        raise ValueError(f"no window of the target {target!r}; there are {', '.join(windows)}")
    missing = [
        reason for name, window in windows.items() for reason in _unusable(name, window, limits)
    ]
    broken = [
        f"{name}: losses of the challenger are not finite"
        for name, window in windows.items()
        if not np.isfinite(window.challenger_N).all()
    ]
    if broken or missing:
        return Verdict("roll back" if broken and serving else "hold back", (*broken, *missing))
    gaps = {
        name: difference(window, limits, seed + place)
        for place, (name, window) in enumerate(windows.items())
    }
    if serving and (harm := _harm(windows, gaps, limits)):
        return Verdict("roll back", tuple(harm))
    against = _against(windows, gaps, target, limits)
    if against:
        return Verdict("hold back", tuple(against))
    return Verdict("promote", tuple(_told(name, gap) for name, gap in gaps.items()))


def usable_windows(windows: Mapping[str, Window], settings: config.Gate) -> dict[str, Window]:
    """The target's, and those that say something: a rare task must not keep the gate from seeing harm in the others."""
    return {
        name: window
        for name, window in windows.items()
        if name == settings.target
        or (
            len(np.unique(window.user_N)) >= settings.users
            and 0 < window.label_N.sum() < len(window.label_N)
        )
    }


def difference(window: Window, limits: Limits, seed: int) -> Gap:
    """Of the challenger from the champion, with the bootstrap's one-sided bounds at `alpha`."""
    scale = window.scale or entropy(float(window.label_N.mean()))
    _, user_N = np.unique(window.user_N, return_inverse=True)
    gap_N = (window.challenger_N - window.champion_N) / scale
    rows_U = np.bincount(user_N).astype(np.float64)
    part_U, rows_U = np.bincount(user_N, gap_N) / rows_U.mean(), rows_U / rows_U.mean()
    mean_R = resampled_means(part_U, rows_U, limits.resamples, seed)
    low, high = np.quantile(mean_R, (limits.alpha, 1 - limits.alpha))
    return Gap(part_U, float(low), float(high))


def _unusable(name: str, window: Window, limits: Limits) -> Sequence[str]:
    columns = (window.user_N, window.label_N, window.champion_N, window.challenger_N)
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise ValueError(f"{name}: columns of the window have lengths {sorted(lengths)}")
    users = len(np.unique(window.user_N))
    if users < limits.users:
        return [f"{name}: {users} users, needed are {limits.users}"]
    if window.scale is None and not 0 < window.label_N.sum() < len(window.label_N):
        return [f"{name}: labels of one class only"]
    return []


def _harm(windows: Mapping[str, Window], gaps: Mapping[str, Gap], limits: Limits) -> Sequence[str]:
    reasons = []
    for name, window in windows.items():
        found = [evidence_of_harm(gaps[name].part_U, scale) for scale in limits.harm_scales]
        if sum(found) / len(found) >= len(gaps) / limits.harm_alpha:
            reasons.append(f"{name}: worse beyond doubt ({_told(name, gaps[name])})")
        if _miscalibrated(window, limits) and _surely_off(window, limits):
            reasons.append(_calibration(name, window, limits))
        if window.forgetting is not None and window.forgetting > 2 * limits.forgetting:
            reasons.append(_forgetting(name, window.forgetting, limits))
    return reasons


def _against(
    windows: Mapping[str, Window], gaps: Mapping[str, Gap], target: str, limits: Limits
) -> Sequence[str]:
    reasons = []
    for name, window in windows.items():
        gap = gaps[name]
        if name == target and gap.high >= 0:
            reasons.append(f"not surely better: {_told(name, gap)}")
        elif name != target and gap.high >= limits.tolerance:
            reasons.append(f"may be worse by more than {limits.tolerance}: {_told(name, gap)}")
        if _miscalibrated(window, limits):
            reasons.append(_calibration(name, window, limits))
        if window.forgetting is not None and window.forgetting > limits.forgetting:
            reasons.append(_forgetting(name, window.forgetting, limits))
        if window.fairness_growth is not None and window.fairness_growth > limits.fairness:
            reasons.append(
                f"{name}: gap between groups grew by {window.fairness_growth:.3f},"
                f" allowed is {limits.fairness}"
            )
    return reasons


def _miscalibrated(window: Window, limits: Limits) -> bool:
    """Out of the band, and no nearer to it than the champion: to go back to that would mend nothing."""
    low, high = limits.calibration
    if window.predicted is None or low <= _ratio(window, window.predicted) <= high:
        return False
    if window.champion_predicted is None:
        return True
    off, champion_off = (
        abs(math.log(max(_ratio(window, one), 1e-9)))
        for one in (window.predicted, window.champion_predicted)
    )
    return off > champion_off


def _ratio(window: Window, predicted: float) -> float:
    """Predicted over actual positives; infinite without any."""
    actual = float(window.label_N.sum())
    return predicted / actual if actual else math.inf


def _surely_off(window: Window, limits: Limits) -> bool:
    actual = float(window.label_N.sum())
    return abs((window.predicted or 0.0) - actual) > limits.sure * math.sqrt(max(actual, 1.0))


def _calibration(name: str, window: Window, limits: Limits) -> str:
    low, high = limits.calibration
    return f"{name}: calibration {_ratio(window, window.predicted or 0.0):.3f}, allowed is {low} to {high}"


def _forgetting(name: str, forgotten: float, limits: Limits) -> str:
    return f"{name}: forgetting {forgotten:.3f} on the anchors, allowed is {limits.forgetting}"


def _told(name: str, gap: Gap) -> str:
    return f"{name}: normalised entropy {gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
