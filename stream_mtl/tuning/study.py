"""Optuna, asked for values and told what came of them: TPE, with a median pruner.

TPE: Bergstra et al., NeurIPS 2011. The sampler of a trial is seeded by (seed, trials done), so a study that
was interrupted and taken up again proposes what one in a single run would have.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stream_mtl.errors import ConfigError, StorageError
from stream_mtl.hashing import hash64
from stream_mtl.tuning.space import Choices, Range, Space, Value

try:
    import optuna
    from optuna.trial import TrialState
except ImportError as error:
    raise ConfigError(
        "tune needs Optuna, which is not installed: pip install 'stream-mtl[tune]'"
    ) from error

NAME = "stream-mtl tune"
UNPRUNED_TRIALS = 5  # a median of fewer says little
UNPRUNED_MARKS = 4  # the first third of the span: most there is how fast a new model starts

State = Literal["done", "pruned", "failed"]
_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one set of values. `value`: of a pruned one, that at which it was given up."""

    number: int
    state: State
    value: float | None
    settings: dict[str, Value]
    reason: str = ""


class Asked:
    """A trial that runs."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial, self.settings = trial, dict(trial.params)

    def is_hopeless(self, mark: int, value: float | None) -> bool:
        """Tell the value at a mark; whether it is worse than the median of the trials before."""
        if value is None:
            return False
        self.trial.report(value, mark)
        return self.trial.should_prune()


class Study:
    def __init__(
        self, study: optuna.Study, space: Space, kinds: Mapping[str, type], seed: int
    ) -> None:
        self._study, self._seed = study, seed
        self._space = {path: _distribution(d, kinds.get(path)) for path, d in space.items()}

    def trials(self) -> list[Trial]:
        """All that are over, in order."""
        return [
            Trial(
                t.number,
                _STATES[t.state],
                t.value,
                dict(t.params),
                t.user_attrs.get("reason", ""),
            )
            for t in self._study.get_trials(deepcopy=False)
            if t.state in _STATES and not _was_interrupted(t)
        ]

    def ask(self) -> Asked:
        seed = hash64(f"tune/{self._seed}/{len(self.trials())}") % 2**32
        self._study.sampler = optuna.samplers.TPESampler(seed=seed)
        return Asked(self._study.ask(self._space))

    def done(self, asked: Asked, value: float) -> None:
        self._study.tell(asked.trial, value)

    def pruned(self, asked: Asked) -> None:
        self._study.tell(asked.trial, state=TrialState.PRUNED)

    def failed(self, asked: Asked, reason: str) -> None:
        asked.trial.set_user_attr("reason", reason)
        self._study.tell(asked.trial, state=TrialState.FAIL)

    def interrupted(self, asked: Asked) -> None:
        """It says nothing of its values, and does not count: a failure without a reason."""
        self._study.tell(asked.trial, state=TrialState.FAIL)


def _was_interrupted(trial: optuna.trial.FrozenTrial) -> bool:
    return trial.state is TrialState.FAIL and "reason" not in trial.user_attrs


@contextmanager
def opened(
    space: Space,
    kinds: Mapping[str, type],
    better: str,
    seed: int,
    path: Path | None,
    facts: Mapping[str, str],
) -> Iterator[Study]:
    """A new study, or with `path` the one in that SQLite file, taken up where it ended.

    `facts` are what its trials depend on. Raises ConfigError where those of the file differ, or it is
    something else; StorageError where it cannot be written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = None if path is None else _storage(path)
    try:
        study = optuna.create_study(
            study_name=NAME,
            storage=storage,
            load_if_exists=True,
            direction="minimize" if better == "lower" else "maximize",
            pruner=optuna.pruners.MedianPruner(UNPRUNED_TRIALS, UNPRUNED_MARKS),
        )
        _compare(study, facts, path)
        _close_interrupted(study)
        yield Study(study, space, kinds, seed)
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


def _distribution(
    dimension: Range | Choices, kind: type | None
) -> optuna.distributions.BaseDistribution:
    if isinstance(dimension, Choices):
        return optuna.distributions.CategoricalDistribution(dimension.choices)
    low, high, log, step = dimension.low, dimension.high, dimension.log, dimension.step
    if kind is int:
        return optuna.distributions.IntDistribution(int(low), int(high), log, int(step or 1))
    return optuna.distributions.FloatDistribution(low, high, log, step)


def _storage(path: Path) -> optuna.storages.RDBStorage:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if path.exists() and path.stat().st_size:
            with path.open("rb") as file:
                if file.read(15) != b"SQLite format 3":
                    raise ConfigError(f"{path} is there and is no study; give another --study")
        return optuna.storages.RDBStorage(f"sqlite:///{path}")
    except (OSError, SQLAlchemyError) as error:
        raise StorageError(f"cannot open the study {path}: {type(error).__name__}") from error


def _compare(study: optuna.Study, facts: Mapping[str, str], path: Path | None) -> None:
    known: dict[str, Any] = study.user_attrs
    differ = [name for name, value in facts.items() if known and known.get(name) != value]
    if differ:
        raise ConfigError(
            f"the study {path} is of other {', '.join(differ)}: its trials cannot be compared with new ones;"
            " give another --study"
        )
    for name, value in facts.items():
        study.set_user_attr(name, value)


def _close_interrupted(study: optuna.Study) -> None:
    """Trials of a run that was killed: nobody will tell what came of them."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
