"""The space: which settings a search may change, and the values that each may take.

A file of it (TOML or YAML) gives every setting by its path `{low, high, log, step}` or `{choices}`:

    optimizer.dense_lr = { low = 1e-4, high = 3e-3, log = true }
    model.name = { choices = ["mmoe", "ple"] }
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stream_mtl import config_file
from stream_mtl.config import Config
from stream_mtl.config_file import Keys
from stream_mtl.errors import ConfigError

Value = str | int | float | bool

_WORDS = {"low", "high", "log", "step", "choices"}
_SECTIONS = (
    "tasks",
    "features",
    "text",
    "model",
    "balancer",
    "memory",
    "rehearsal",
    "optimizer",
    "learner",
)
# they decide which rows are judged, or by which labels
_JUDGES = {
    "tasks": {"kind", "after", "label", "above", "classes", "values", "window_ms"},
    "features": {"negatives", "uniform_negatives", "rest", "neighbours", "domains"},
}


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included; whole numbers where both are."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def values(self) -> tuple[Value, ...]:
        """Those that a check must try."""
        return self.low, self.high


@dataclass(frozen=True, slots=True)
class Choices:
    choices: tuple[Value, ...]

    def values(self) -> tuple[Value, ...]:
        return self.choices


Space = dict[str, Range | Choices]  # by the setting's path


def default_space(config: Config) -> Space:
    """What differs most between shops. Weights count against each other, so the first task keeps its own.

    `rehearsal.loss` does not offer `none`: a prequential objective does not see what is forgotten.
    """
    weights: Space = {
        f"tasks.{name}.weight": Range(task.weight / 10, task.weight * 10, log=True)
        for name, task in list(config.tasks.items())[1:]
    }
    return weights | {
        "optimizer.dense_lr": Range(1e-4, 3e-3, log=True),
        "optimizer.first_lr": Range(5e-4, 8e-3, log=True),
        "optimizer.table_lr": Range(2e-3, 0.05, log=True),
        "learner.batch_rows": Choices((128, 256, 512, 1024)),
        "rehearsal.loss": Choices(("er", "der", "der++")),
        "rehearsal.alpha": Range(0.05, 2.0, log=True),
        "rehearsal.beta": Range(0.05, 1.0, log=True),
        "rehearsal.ratio": Range(0.25, 2.0, step=0.25),
        "memory.rows": Choices((2_048, 8_192, 32_768)),
        "model.name": Choices(("shared_bottom", "mmoe", "cgc", "ple")),
        "model.experts": Range(2, 8),
        "model.hidden": Choices((64, 128, 256)),
        "balancer.name": Choices(("weighted", "dwa", "famo", "uw_so")),
    }


def read_space(path: Path) -> Space:
    """Raises ConfigError, which names the line; whether the values can be is for `check_space`."""
    tree, line_of = config_file.parse(path, "space file")
    space: Space = {}
    for keys, given in _entries(tree, path):
        line, name = line_of(keys), ".".join(keys)
        space[name] = _dimension(name, given, f"{path}:{line}" if line else str(path))
    if not space:
        raise ConfigError(
            f"{path} names no setting; `stream-mtl tune --show-space` prints an example"
        )
    return space


def check_space(space: Space, config: Config) -> None:
    """Every setting is there and may be searched, and every value may be set. Raises ConfigError with all faults."""
    faults: list[str] = []
    for path, dimension in space.items():
        try:
            _check(path, dimension, config)
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))


def configured(config: Config, values: Mapping[str, Value]) -> Config:
    """`config` with these settings. Raises ConfigError where they cannot be, alone or together."""
    tree = config.model_dump(exclude_unset=True)  # what was not given stays not given
    origins: dict[Keys, str] = {}
    for path, value in values.items():
        place, _ = config_file.resolve(path.split("."), "space")
        if place[0] == "tasks":  # a table that names some tasks would drop the others
            tree.setdefault("tasks", config.model_dump()["tasks"])
        config_file.put(tree, place, value)
        origins[place] = "space"
    return config_file.validate(tree, origins)


def as_toml(space: Space) -> str:
    """A space file."""
    return "".join(f"{_quoted(path)} = {_inline(d)}\n" for path, d in space.items())


def as_json(space: Space) -> dict[str, dict[str, Any]]:
    return {path: _given(dimension) for path, dimension in space.items()}


def _quoted(path: str) -> str:
    return path if re.fullmatch(r"[\w.-]+", path, re.ASCII) else json.dumps(path)


def _given(dimension: Range | Choices) -> dict[str, Any]:
    if isinstance(dimension, Choices):
        return {"choices": list(dimension.choices)}
    given: dict[str, Any] = {"low": dimension.low, "high": dimension.high}
    if dimension.log:
        given["log"] = True
    if dimension.step is not None:
        given["step"] = dimension.step
    return given


def _inline(dimension: Range | Choices) -> str:
    given = (f"{name} = {json.dumps(value)}" for name, value in _given(dimension).items())
    return "{ " + ", ".join(given) + " }"


def _entries(tree: Mapping[str, Any], path: Path, above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    for name, given in tree.items():
        keys = (*above, str(name))
        if not isinstance(given, dict):
            raise ConfigError(
                f"{path}: {'.'.join(keys)}: expected {{low, high}} or {{choices}}, found {given!r}"
            )
        if not given or _WORDS & given.keys():
            yield keys, given
        else:
            yield from _entries(given, path, keys)


def _dimension(path: str, given: dict[str, Any], origin: str) -> Range | Choices:
    name = f"{path} ({origin})"
    unknown = sorted(set(given) - _WORDS)
    if unknown:
        raise ConfigError(f"{name}: unknown word {unknown[0]!r}; there are {sorted(_WORDS)}")
    if "choices" in given:
        choices = given["choices"]
        if len(given) > 1 or not isinstance(choices, list) or not choices:
            raise ConfigError(f"{name}: `choices` is a list with something in it, and stands alone")
        if not all(isinstance(choice, (str, int, float, bool)) for choice in choices):
            raise ConfigError(f"{name}: a choice is a string, a number, or true or false")
        return Choices(tuple(choices))
    if not {"low", "high"} <= set(given):
        raise ConfigError(f"{name}: expected `low` and `high`, or `choices`")
    return _range(given, name)


def _range(given: dict[str, Any], name: str) -> Range:
    low, high, step = given["low"], given["high"], given.get("step")
    for word, number in (("low", low), ("high", high), ("step", step)):
        if (word != "step" or word in given) and not _is_number(number):
            raise ConfigError(f"{name}: {word} is a number, found {number!r}")
    if not isinstance(given.get("log", False), bool):
        raise ConfigError(f"{name}: log is true or false, found {given['log']!r}")
    log = bool(given.get("log", False))
    if low >= high:
        raise ConfigError(f"{name}: low = {low} is not below high = {high}")
    if log and low <= 0:
        raise ConfigError(f"{name}: low = {low}, but a range by its logarithm begins above 0")
    if step is not None and (log or step <= 0):
        raise ConfigError(f"{name}: step is above 0, and not for a range by its logarithm")
    return Range(low, high, log, step)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _check(path: str, dimension: Range | Choices, config: Config) -> None:
    place, kind = config_file.resolve(path.split("."), "space")
    if place[0] not in _SECTIONS or place[-1] in _JUDGES.get(place[0], ()):
        raise ConfigError(
            f"{path} cannot be searched: it changes what is judged, or nothing that is. Settings of"
            f" {', '.join(_SECTIONS)} can, but for those that decide rows or labels"
        )
    if place[0] == "tasks" and (len(place) != 3 or place[1] not in config.tasks):
        raise ConfigError(
            f"{path}: there is no such task's setting; tasks are {', '.join(config.tasks)}"
        )
    if isinstance(dimension, Range) and kind not in (int, float):
        raise ConfigError(f"{path} is no number: give `choices`")
    if isinstance(dimension, Range) and kind is int:
        given = (dimension.low, dimension.high, dimension.step or 1)
        if not all(float(number).is_integer() for number in given):
            raise ConfigError(f"{path} is a whole number: so are its low, high and step")
    for value in dimension.values():
        configured(config, {path: value})
        _check_name(path, value)


def _check_name(path: str, value: Value) -> None:
    """Names that the configuration leaves open until the learner is built."""
    from stream_mtl.balancers import BALANCERS
    from stream_mtl.memory import MEMORIES
    from stream_mtl.models import MODELS
    from stream_mtl.modes import MODES
    from stream_mtl.registry import entry
    from stream_mtl.regularizers import REGULARIZERS
    from stream_mtl.rehearsal import REHEARSALS
    from stream_mtl.samplers import SAMPLERS

    registries: dict[str, Mapping[str, object]] = {
        "balancer.name": BALANCERS,
        "learner.mode": MODES,
        "memory.policy": MEMORIES,
        "memory.sampler": SAMPLERS,
        "model.name": MODELS,
        "rehearsal.loss": REHEARSALS,
        "rehearsal.regularizer": REGULARIZERS,
    }
    if path in registries:
        entry(path, str(value), registries[path])
