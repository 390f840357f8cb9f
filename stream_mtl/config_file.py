"""A config file (TOML or YAML) to one validated `Config`, with messages that name the place and the fix.

The layers above the file (environment, flags) are added in `workers/settings.py`; both use what is here.

A table of names (`tasks`, `scoring.value`, ...) in a file replaces the whole default table, so that a
task can be left out; the fields of a task that a default task of the same name has may be left out too.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from stream_mtl.config import SECTION_CLASS, Config, KeyClass
from stream_mtl.errors import ConfigError
from stream_mtl.settings_task import OF_KINDS

Keys = tuple[str, ...]
Tree = dict[str, Any]
SECRET = re.compile(
    r"passw|passphrase|secret|oauthbearer\.(config|extensions)|key\.pem|private|token(?!\.endpoint)|credential",
    re.I,
)
_MOST, _DEEPEST = 10_000, 20  # of a file: YAML's aliases can make a few lines endless
# What PyYAML raises, besides its own, for values that are not of their tag.
_UNREADABLE = (
    RecursionError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    OverflowError,
)
_PASSED = ("client", "consumer", "producer")  # handed on to librdkafka: any name, perhaps a secret


@dataclass(frozen=True, slots=True)
class Leaf:
    """One setting: its place, its type and what it says of itself. `names`: a table of names."""

    keys: Keys
    annotation: Any
    description: str
    key_class: KeyClass
    names: bool


def leaves(model: type[BaseModel] = Config, prefix: Keys = ()) -> Iterator[Leaf]:
    """All settings in the order of the sections; the fields of a task are listed as `tasks.NAME.…`."""
    for name, field in model.model_fields.items():
        keys = (*prefix, name)
        kind: Any = field.annotation
        if _is_section(kind):
            yield from leaves(kind, keys)
            continue
        names = get_origin(kind) is dict
        key_class = SECTION_CLASS[keys[0]]
        yield Leaf(keys, kind, field.description or "", key_class, names)
        if names and _is_section(get_args(kind)[1]):
            yield from leaves(get_args(kind)[1], (*keys, "NAME"))


def resolve(keys: Sequence[str], origin: str) -> tuple[Keys, Any]:
    """The place of a dotted key and its type. What follows a table of plain values is one name, dots
    and all (`kafka.client.security.protocol`). Raises ConfigError with the nearest valid key."""
    model: Any = Config
    place: list[str] = []
    rest = list(keys)
    while rest:
        name = rest.pop(0)
        if not _is_section(model) or name not in model.model_fields:
            raise ConfigError(_unknown(".".join(keys), origin))
        place.append(name)
        model = model.model_fields[name].annotation
        if get_origin(model) is dict and rest:
            model = get_args(model)[1]
            if not _is_section(model):
                return (*place, ".".join(rest)), model
            place.append(rest.pop(0))
    return tuple(place), model


def read(path: str | Path) -> tuple[Tree, dict[Keys, str]]:
    """The settings of a file and the origin `FILE:LINE` of each. Raises ConfigError."""
    path = Path(path)
    raw, line_of = parse(path, "config file", "; `stream-mtl init` writes one")
    tree: Tree = {}
    origins: dict[Keys, str] = {}
    for number, (keys, value) in enumerate(_plain_values(raw)):
        if number > _MOST:
            raise ConfigError(
                f"{path}: expected at most {_MOST} settings; do aliases repeat themselves?"
            )
        line = line_of(keys)
        origin = f"{path}:{line}" if line else str(path)
        place, kind = resolve(keys, origin)
        if value == {} and _is_section(kind):
            continue  # a header with nothing below it
        put(tree, place, value)
        origins[place] = origin
    return tree, origins


def parse(path: Path, what: str, remedy: str = "") -> tuple[Tree, Callable[[Keys], int | None]]:
    """A TOML or YAML file as it stands, and the line of each of its keys. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the {what} {path}: {getattr(error, 'strerror', None) or error}{remedy}"
        ) from error
    raw, line_of = (_yaml if path.suffix in {".yaml", ".yml"} else _toml)(path, text)
    return raw, line_of


def put(tree: Tree, place: Keys, value: object) -> None:
    for name in place[:-1]:
        inner = tree.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{'.'.join(place)}: {name} is set as a value and as a table")
        tree = inner
    tree[place[-1]] = value


def validate(tree: Tree, origins: Mapping[Keys, str]) -> Config:
    """The frozen config, or one ConfigError that lists every key with expected, found and origin."""
    defaults = Config().model_dump()["tasks"]
    tasks = tree.get("tasks")
    if isinstance(tasks, dict):
        filled = {
            name: _filled(name, {**defaults.get(name, {}), **task}, origins)
            if isinstance(task, dict)
            else task
            for name, task in tasks.items()
        }
        tree = {**tree, "tasks": filled}
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_complaints(error, origins))) from error


def _filled(name: str, task: Tree, origins: Mapping[Keys, str]) -> Tree:
    """Without what a default task has and nobody asked for, where the kind was changed to one that has it not."""
    kind = task.get("kind")
    return {
        key: value
        for key, value in task.items()
        if kind in OF_KINDS.get(key, (kind,)) or ("tasks", name, key) in origins
    }


def load(path: str | Path) -> Config:
    """The config of a file over the defaults; no environment, no flags."""
    return validate(*read(path))


def is_secret(keys: Sequence[str]) -> bool:
    """Must the value never be shown? The name of a file that holds a secret is none."""
    if keys[0] != "kafka" or keys[-1].endswith(("_file", ".location")):
        return False
    return SECRET.search(".".join(keys)) is not None


def tellable(keys: Sequence[str], value: object) -> str:
    """A wrong value for a message, shortened; *** where it is or may hold a secret."""
    table = keys[0] == "kafka" and (len(keys) == 1 or (len(keys) == 2 and keys[1] in _PASSED))
    nested = keys[0] == "kafka" and isinstance(value, (dict, list, tuple))
    return "***" if table or nested or is_secret(keys) else repr(value)[:60]


def _complaints(error: ValidationError, origins: Mapping[Keys, str]) -> Iterator[str]:
    seen: set[Keys] = set()
    for fault in error.errors(include_url=False):
        loc = tuple(str(part) for part in fault["loc"])
        keys = next((loc[:n] for n in range(len(loc), 0, -1) if loc[:n] in origins), loc)
        if keys in seen:  # a union reports each of its members
            continue
        seen.add(keys)
        where = f" ({origins[keys]})" if origins.get(keys) else ""
        expected = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        missing = fault["type"] == "missing"
        if fault["type"] == "value_error" and isinstance(fault["input"], dict):
            yield f"{'.'.join(keys)}: {expected}{where}"  # settings that do not fit together
            continue
        expected = "a value" if missing else expected
        found = "nothing" if missing else tellable(keys, fault["input"])
        yield f"{'.'.join(keys)}: expected {expected}, found {found}{where}"


def _unknown(key: str, origin: str) -> str:
    valid = sorted({".".join(leaf.keys) for leaf in leaves()} | set(Config.model_fields))
    near = difflib.get_close_matches(key, valid, n=1, cutoff=0.6)
    if not near:  # the right name in a wrong section is the other common slip
        last = key.rpartition(".")[2]
        names = {name.rpartition(".")[2]: name for name in reversed(valid)}
        near = [names[hit] for hit in difflib.get_close_matches(last, list(names), n=1, cutoff=0.7)]
    hint = f"did you mean {near[0]}?" if near else "see `stream-mtl config show` for the valid ones"
    return f"unknown setting {key} ({origin}): {hint}"


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _plain_values(tree: Mapping[Any, Any], prefix: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    if len(prefix) > _DEEPEST:
        raise ConfigError(f"{'.'.join(prefix[:4])}: sections within sections without end")
    for name, value in tree.items():
        keys = (*prefix, str(name))
        if isinstance(value, dict) and value:
            yield from _plain_values(value, keys)
        else:
            yield keys, value


def _toml(path: Path, text: str) -> tuple[Tree, Any]:
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    lines: dict[Keys, int] = {}
    table: Keys = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([^\[\]#]+?)\s*\]+", line):
            table = _split(header[1])
            lines.setdefault(table, number)
        elif key := re.match(r"""\s*((?:[\w.-]|"[^"]*"|'[^']*')+)\s*=""", line):
            lines.setdefault((*table, *_split(key[1])), number)

    def line_of(keys: Keys) -> int | None:
        return next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), None)

    return tree, line_of


def _split(dotted: str) -> Keys:
    parts = re.findall(r""""[^"]*"|'[^']*'|[\w-]+""", dotted)
    return tuple(part.strip("\"'") for part in parts)


def _yaml(path: Path, text: str) -> tuple[Tree, Any]:
    import yaml

    try:
        tree = yaml.safe_load(text) or {}
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, *_UNREADABLE) as error:
        raise ConfigError(f"{path} is not valid YAML: {_yaml_fault(error)}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected sections with keys, found {type(tree).__name__}")

    def line_of(keys: Keys) -> int | None:
        at, line = node, None
        for key in keys:
            pairs = at.value if isinstance(at, yaml.MappingNode) else ()
            pair = next((p for p in pairs if p[0].value == key), None)
            if pair is None:
                break
            line, at = pair[0].start_mark.line + 1, pair[1]
        return line

    return tree, line_of


def _yaml_fault(error: Exception) -> str:
    """What and where, without the line itself: it may hold a secret."""
    what = getattr(error, "problem", None) or type(error).__name__
    mark = getattr(error, "problem_mark", None)
    return f"{what} (line {mark.line + 1}, column {mark.column + 1})" if mark else str(what)
