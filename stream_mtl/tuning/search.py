"""The search: trials on the tuning span, then the best of them against the given configuration on the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, get_args, get_origin

from stream_mtl import config_file
from stream_mtl.config import Config, fold_hash
from stream_mtl.errors import ConfigError, NumericError
from stream_mtl.ledger import FOLD_VERSION
from stream_mtl.tuning import space as spaces
from stream_mtl.tuning.comparison import jackknife_error, student_bound
from stream_mtl.tuning.objective import Objective
from stream_mtl.tuning.space import Space, Value
from stream_mtl.tuning.study import Asked, Study, Trial, opened
from stream_mtl.tuning.trial_fold import (
    BLOCKS,
    COUNTED_FROM,
    PARTS,
    Marks,
    Survey,
    TrialFold,
    marks,
    survey,
)

LEVEL = 0.05  # chance that one of the finalists is taken for better when none is
BASELINE = "baseline"
_END = PARTS + BLOCKS
_LEAST_RECORDS = 2 * _END  # fewer and marks fall together


@dataclass(frozen=True, slots=True)
class Plan:
    files: tuple[Path, ...]
    objective: Objective
    trials: int = 30  # in all, those of a study taken up again included
    share: float = 0.7  # of the records: the tuning span
    finalists: int = 3
    seeds: int = 2  # other seeds of the given configuration that tell the noise of a seed
    study: Path | None = None


@dataclass(frozen=True, slots=True)
class Finalist:
    """A trial on the later span. `gain` over the given configuration has to exceed both noises."""

    trial: int
    tuning: float
    later: float | None
    gain: float | None
    needed: float | None  # gain beyond the noise of the events; None: too few labels to tell
    settings: dict[str, Value]

    def is_better(self, seed_noise: float) -> bool:
        if self.gain is None or self.needed is None:
            return False
        return self.gain > max(self.needed, seed_noise)


@dataclass(frozen=True, slots=True)
class Report:
    objective: Objective
    unjudged: tuple[str, ...]  # tasks of the objective without a value in one of the spans
    marks: Marks
    baseline: dict[str, float]  # tuning, later
    trials: list[Trial]
    finalists: list[Finalist] = field(default_factory=list)  # best on the tuning span first
    seed_gains: list[float] = field(default_factory=list)  # later, of the same with other seeds
    recommended: Finalist | None = None  # None: the given configuration

    def as_json(self) -> dict[str, Any]:
        chosen = self.recommended
        return {
            "objective": {
                **asdict(self.objective),
                "better": self.objective.better,
                "unjudged": self.unjudged,
            },
            "records": {
                "counted_from": self.marks.tuning[COUNTED_FROM - 1],
                "tuning": self.marks.tuning[-1],
                "later": self.marks.later[-1] - self.marks.tuning[-1],
            },
            "baseline": self.baseline,
            "best": asdict(self.finalists[0]) if self.finalists else None,
            "trials": [asdict(trial) for trial in self.trials],
            "finalists": [asdict(finalist) for finalist in self.finalists],
            "seed_gains": self.seed_gains,
            "recommended": BASELINE if chosen is None else f"trial {chosen.trial}",
            "settings": {} if chosen is None else chosen.settings,
        }


class Listener(Protocol):
    def folding(self, what: str) -> None:
        """A fold begins that is no trial."""

    def given(self, tuning: float, later: float) -> None:
        """What the given configuration is worth."""

    def trial(self, trial: Trial) -> None:
        """A trial is over."""


def tune(
    config: Config, space: Space, plan: Plan, listener: Listener, go_on: Callable[[], bool]
) -> Report:
    """Search `space` around `config`; no trial begins once `go_on` says no.

    The same files, config (its seed too), space and plan give the same report, in one go or taken up again.
    Raises ConfigError for a space, study or stream that cannot be; NumericError when the given configuration
    itself breaks down.
    """
    spaces.check_space(space, config)
    found = survey(plan.files, config)
    if found.records < _LEAST_RECORDS:
        raise ConfigError(
            f"{found.records} records are too few to search by: at least {_LEAST_RECORDS}, better thousands"
        )
    return _Search(config, space, plan, found, listener).run(go_on)


class _Search:
    def __init__(
        self, config: Config, space: Space, plan: Plan, found: Survey, listener: Listener
    ) -> None:
        self._config, self._space, self._plan, self._found = config, space, plan, found
        self._listener, self._marks = listener, marks(found.records, plan.share)
        self._objective = plan.objective
        self._live: dict[int, TrialFold] = {}  # the best trials so far, ready to fold on

    def run(self, go_on: Callable[[], bool]) -> Report:
        kinds = {path: _kind(path) for path in self._space}
        way, seed = self._objective.better, self._config.seed
        with opened(self._space, kinds, way, seed, self._plan.study, self._facts()) as study:
            given = self._given()
            while len(study.trials()) < self._plan.trials and go_on():
                self._trial(study)
                self._listener.trial(study.trials()[-1])
                self._keep_best(study.trials())
            trials = study.trials()
        finalists = [self._compare(trial, given) for trial in self._best(trials)]
        seed_gains: list[float] = []
        if any(finalist.is_better(0.0) for finalist in finalists):
            seed_gains = self._seed_gains(given)
        seed_noise = max(map(abs, seed_gains), default=0.0)
        better = [finalist for finalist in finalists if finalist.is_better(seed_noise)]
        return Report(
            self._objective,
            tuple(t for t in self._plan.objective.tasks if t not in self._objective.tasks),
            self._marks,
            {"tuning": _known(self._tuning(given)), "later": _known(self._later(given))},
            trials,
            finalists,
            seed_gains,
            max(better, key=lambda finalist: _known(finalist.gain), default=None),
        )

    # ---- the given configuration

    def _given(self) -> TrialFold:
        """Folded to the end, first of all: it says which tasks there is something to judge by."""
        self._listener.folding("the given configuration")
        given = self._folded(self._config)
        self._fold_on(given)
        for span in ((COUNTED_FROM, PARTS), (PARTS, _END)):
            self._objective = self._objective.known_in(given.qualities(*span))
        tuning, later = self._tuning(given), self._later(given)
        if tuning is None or later is None:
            raise ConfigError(
                f"no task has a {self._objective.metric} in both spans that count (records"
                f" {self._marks.tuning[COUNTED_FROM - 1]} to {self._marks.tuning[-1]}, and from there to"
                f" {self._found.records}): use more events, shorter windows of labels (join), or another objective"
            )
        self._listener.given(tuning, later)
        return given

    def _seed_gains(self, given: TrialFold) -> list[float]:
        """How far the same configuration moves by its seed alone; a seed that breaks down says nothing of it."""
        gains = []
        for other in range(1, self._plan.seeds + 1):
            self._listener.folding(f"the given configuration with another seed ({other})")
            config = self._config.model_copy(update={"seed": self._config.seed + other})
            try:
                fold = self._folded(config)
                self._fold_on(fold)
            except NumericError:
                continue
            later = self._later(fold)
            if later is not None:
                gains.append(self._objective.gain(later, _known(self._later(given))))
        return gains

    # ---- trials

    def _trial(self, study: Study) -> None:
        asked = study.ask()
        try:
            fold = TrialFold(spaces.configured(self._config, asked.settings), self._plan.files)
            if self._is_given_up(fold, asked):
                study.pruned(asked)
                return
        except (ConfigError, NumericError, MemoryError) as error:
            study.failed(asked, str(error) or type(error).__name__)
            return
        except BaseException:
            study.interrupted(asked)
            raise
        value = self._tuning(fold)
        if value is None:
            study.failed(asked, "a task that counts has no finite value")
            return
        study.done(asked, value)
        self._live[asked.trial.number] = fold

    def _is_given_up(self, fold: TrialFold, asked: Asked) -> bool:
        """Fold over the tuning span; at each mark but the last the newer half of what was folded is compared."""
        for number, mark in enumerate(self._marks.tuning, 1):
            fold.to(mark)
            value = fold.value(self._objective, number // 2, number)
            if number < PARTS and asked.is_hopeless(number, value):
                return True
        return False

    def _keep_best(self, trials: list[Trial]) -> None:
        best = {trial.number for trial in self._best(trials)}
        self._live = {number: fold for number, fold in self._live.items() if number in best}

    def _best(self, trials: list[Trial]) -> list[Trial]:
        """The finalists, of equal ones the earlier."""
        done = [trial for trial in trials if trial.state == "done"]
        done.sort(key=lambda trial: -self._objective.gain(_known(trial.value), 0.0))
        return done[: self._plan.finalists]

    # ---- the later span

    def _compare(self, trial: Trial, given: TrialFold) -> Finalist:
        """Without a gain where it breaks down on the later span."""
        self._listener.folding(f"trial {trial.number} over the later span")
        fold = self._live.pop(trial.number, None)
        try:
            if fold is None:  # of a study taken up again
                fold = self._folded(spaces.configured(self._config, trial.settings))
            self._fold_on(fold)
        except NumericError:
            later = gain = needed = None
        else:
            later = self._later(fold)
            gain = (
                None if later is None else self._objective.gain(later, _known(self._later(given)))
            )
            needed = self._needed(fold, given)
        return Finalist(trial.number, _known(trial.value), later, gain, needed, trial.settings)

    def _needed(self, fold: TrialFold, given: TrialFold) -> float | None:
        """The gain that noise of the events exceeds for none of the finalists, but at LEVEL (Bonferroni)."""
        pairs = zip(
            fold.without_each_block(self._objective, PARTS, _END),
            given.without_each_block(self._objective, PARTS, _END),
            strict=True,
        )
        gains = [self._objective.gain(a, b) for a, b in pairs if a is not None and b is not None]
        if len(gains) < BLOCKS:
            return None
        return student_bound(LEVEL / self._plan.finalists, BLOCKS - 1) * jackknife_error(gains)

    # ---- folds

    def _folded(self, config: Config) -> TrialFold:
        """To the end of the tuning span."""
        fold = TrialFold(config, self._plan.files)
        for mark in self._marks.tuning:
            fold.to(mark)
        return fold

    def _fold_on(self, fold: TrialFold) -> None:
        for mark in self._marks.later:
            fold.to(mark)

    def _tuning(self, fold: TrialFold) -> float | None:
        return fold.value(self._objective, COUNTED_FROM, PARTS)

    def _later(self, fold: TrialFold) -> float | None:
        return fold.value(self._objective, PARTS, _END)

    def _facts(self) -> dict[str, str]:
        """What a trial's value depends on."""
        told = json.dumps(spaces.as_json(self._space))
        return {
            "events": self._found.digest,
            "configuration": f"{fold_hash(self._config)}/{FOLD_VERSION}",
            "cuts": self._config.cut.model_dump_json(),
            "space": hashlib.blake2b(told.encode(), digest_size=16).hexdigest(),
            "objective": f"{self._objective.metric} of {', '.join(self._objective.tasks)}",
            "tuning share": str(self._plan.share),
        }


def _known(value: float | None) -> float:
    assert value is not None
    return value


def _kind(path: str) -> Any:
    _, kind = config_file.resolve(path.split("."), "space")
    return kind if get_origin(kind) is None else get_args(kind)[0]
