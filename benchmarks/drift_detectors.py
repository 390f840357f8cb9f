"""What each drift detector costs in false alarms, and how soon it finds a fault: the choice behind `drift.entropy` and
`drift.calibration`.

Labels are drawn at the probabilities that are said, rates of .01, .1 and .5, logits 1.5 around. After 92,000 of them
either tastes turn (the same probabilities, but of other rows: `entropy`), or twice as many labels come true as is said
(`calibration`), for 8,000 more. Told: alarms before that a million labels, and the median of the labels until the alarm
(in steps of 500, how many of the seeds had none in brackets).

    python -m benchmarks.drift_detectors [--seeds 10] [--json]
"""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from benchmarks.report import Figure, note, parser, tell
from stream_mtl import config as settings
from stream_mtl.drift import DETECTORS
from stream_mtl.drift_watch import DriftWatch
from stream_mtl.errors import ConfigError
from stream_mtl.prequential import logits

TASKS = ("click", "purchase", "search")  # as many tests side by side as a shop's default tasks make
RATES = (0.01, 0.1, 0.5)
QUIET, AFTER, STEP = 92_000, 8_000, 500
Floats = npt.NDArray[np.float64]


def right(count: int, rate: float, seed: int) -> tuple[Floats, Floats]:
    """Logits, and labels drawn by them."""
    random = np.random.default_rng(seed)
    logit_N = random.normal(np.log(rate / (1 - rate)), 1.5, count)
    return logit_N, (random.random(count) < 1 / (1 + np.exp(-logit_N))).astype(float)


def wrong(signal: str, logit_N: Floats, seed: int) -> Floats:
    """What is said after the fault."""
    if signal == "entropy":
        return np.random.default_rng(seed).permutation(logit_N)
    said_N: Floats = logits(1 / (1 + np.exp(-logit_N)) / 2)
    return said_N


def one(signal: str, name: str, rate: float, seed: int) -> tuple[int, int | None]:
    """Alarms while all is right, and labels from the fault to its alarm; None: none came."""
    watch = DriftWatch(settings.Drift.model_validate({signal: name}), TASKS)
    logit_N, label_N = right(QUIET + AFTER, rate, seed)
    logit_N[QUIET:] = wrong(signal, logit_N[QUIET:], seed)
    false = 0
    for start in range(0, QUIET + AFTER, STEP):
        part = slice(start, start + STEP)
        watch.observe("click", logit_N[part], label_N[part])
        found = sum(alarm.signal == signal for alarm in watch.take())
        if start < QUIET:
            false += found
        elif found:
            return false, start + STEP - QUIET
    return false, None


def told(signal: str, name: str, rate: float, seeds: int) -> Figure:
    runs = [one(signal, name, rate, seed) for seed in range(seeds)]
    false = sum(run[0] for run in runs) * 1e6 / (seeds * QUIET)
    delays = [run[1] for run in runs if run[1] is not None]
    found = f"{np.median(delays):,.0f} ({seeds - len(delays)})" if delays else f"- ({seeds})"
    note(f"{signal}, {name}, rate {rate:g}: {false:.1f} a million, found after {found}")
    return Figure(
        f"{signal}, {name}, rate {rate:g}: alarms a million without a fault; labels until it is found",
        f"{false:.1f}; {found}",
        "",
        None,
    )


def watches(signal: str, name: str) -> bool:
    try:
        DriftWatch(settings.Drift.model_validate({signal: name}), TASKS)
    except ConfigError:
        return False
    return True


def main() -> int:
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=10)
    given = arguments.parse_args()
    figures = [
        told(signal, name, rate, given.seeds)
        for signal in ("entropy", "calibration")
        for name in DETECTORS
        if watches(signal, name)
        for rate in RATES
    ]
    return tell(figures, given.json)


if __name__ == "__main__":
    sys.exit(main())
