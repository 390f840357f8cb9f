"""Where each setting comes from: defaults < file < environment < flags, to one frozen `Config`.

Environment: `SMTL_SECTION__KEY` (`SMTL_CUT__INTERVAL_MS=300`, `SMTL_APP=shop`); a name behind a table of
plain values keeps its dots as further `__` (`SMTL_KAFKA__CLIENT__SECURITY__PROTOCOL=SSL`).
Flags: `--set cut.interval_ms=300`, and `--bootstrap`, `--state` for the two that everybody needs.
Lists are written `a,b` or as JSON, whole tables as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

from stream_mtl import config_file
from stream_mtl.config import Config
from stream_mtl.config_file import Keys, Tree
from stream_mtl.errors import ConfigError

PREFIX = "SMTL_"


@dataclass(frozen=True, slots=True)
class Settings:
    """The config and, for each key that is not a default, where it was said last."""

    config: Config
    origins: Mapping[Keys, str]


@dataclass(frozen=True, slots=True)
class Effective:
    """One line of `config show`."""

    key: str
    value: Any
    origin: str
    key_class: str
    description: str


def load(
    file: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    flags: Iterable[tuple[str, str, str]] = (),
    presets: Iterable[tuple[str, str, str]] = (),
) -> Settings:
    """`flags`, and `presets` below the file: (key, value, how to name the origin). Raises ConfigError."""
    tree, origins = config_file.read(file) if file else ({}, {})
    for key, text, origin in presets:
        place, _ = config_file.resolve(key.split("."), origin)
        if place not in origins:
            _layer(tree, origins, list(place), text, origin)
    for name, text in sorted((environment or {}).items()):
        if name.startswith(PREFIX):
            keys = [part.lower() for part in name.removeprefix(PREFIX).split("__")]
            _layer(tree, origins, keys, text, f"environment {name}")
    for key, text, flag in flags:
        _layer(tree, origins, key.split("."), text, f"flag {flag}")
    return Settings(config_file.validate(tree, origins), origins)


def assignment(text: str) -> tuple[str, str, str]:
    """`a.b=value` as one flag for `load`."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        found = repr(key) if not equals else "no key before ="  # what follows it may be a secret
        raise ConfigError(f"--set expected KEY=VALUE, found {found}; example: cut.interval_ms=300")
    return key.strip(), value, f"--set {key.strip()}"


def effective(settings: Settings) -> list[Effective]:
    """Every setting with its value and origin; secrets are shown as ***."""
    dump = settings.config.model_dump(mode="json")
    rows = []
    for leaf in config_file.leaves():
        if "NAME" in leaf.keys:
            continue  # shown with each task's own name, below
        value: Any = dump
        for name in leaf.keys:
            value = value[name]
        if leaf.names and value:
            rows += _table_rows(leaf, value, settings.origins)
        else:
            rows.append(_row(leaf, leaf.keys, value, settings.origins, leaf.description))
    return rows


def schema() -> dict[str, Any]:
    """JSON Schema of a config file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}


def _layer(tree: Tree, origins: dict[Keys, str], keys: list[str], text: str, origin: str) -> None:
    place, kind = config_file.resolve(keys, origin)
    value = _value(text, kind, ".".join(place), origin)
    _seed_table(tree, place)
    if isinstance(value, dict):  # a whole table replaces what was there
        for known in [k for k in origins if k[: len(place)] == place]:
            del origins[known]
    config_file.put(tree, place, value)
    origins[place] = origin


def _seed_table(tree: Tree, place: Keys) -> None:
    """A flag changes one name of a default table; unlike a file, it does not replace the table."""
    default: Any = Config()
    for depth, name in enumerate(place[:-1], 1):
        default = getattr(default, name, None)
        if isinstance(default, dict):
            at: Any = tree
            for step in place[:depth]:
                at = at.get(step) if isinstance(at, dict) else None
            if at is None:
                dumped = Config().model_dump()
                for step in place[:depth]:
                    dumped = dumped[step]
                config_file.put(tree, place[:depth], dumped)
            return


def _value(text: str, kind: Any, key: str, origin: str) -> Any:
    origin_type = get_origin(kind)
    table = origin_type is dict or (isinstance(kind, type) and hasattr(kind, "model_fields"))
    if table or (origin_type is tuple and text.lstrip().startswith("[")):
        try:
            return json.loads(text)
        except ValueError as error:
            what = "a JSON object" if table else 'a list, as one,two or ["one", "two"]'
            found = config_file.tellable(key.split("."), text)
            raise ConfigError(f"{key}: expected {what}, found {found} ({origin})") from error
    if origin_type is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _table_rows(
    leaf: config_file.Leaf, table: Mapping[str, Any], origins: Mapping[Keys, str]
) -> list[Effective]:
    rows = []
    inner = {x.keys[-1]: x.description for x in config_file.leaves() if x.keys[:-2] == leaf.keys}
    for name, value in table.items():
        keys = (*leaf.keys, name)
        if isinstance(value, dict):
            rows += [
                _row(leaf, (*keys, field), inside, origins, inner.get(field, ""))
                for field, inside in value.items()
            ]
        else:
            rows.append(_row(leaf, keys, value, origins, leaf.description))
    return rows


def _row(
    leaf: config_file.Leaf, keys: Keys, value: Any, origins: Mapping[Keys, str], description: str
) -> Effective:
    said = (origins[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in origins)
    shown = "***" if value and config_file.is_secret(keys) else value
    return Effective(".".join(keys), shown, next(said, "default"), leaf.key_class, description)
