"""How a name in the configuration becomes the thing it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from stream_mtl.errors import ConfigError

Entry = TypeVar("Entry")


def entry(key: str, name: str, registry: Mapping[str, Entry]) -> Entry:
    """The registered implementation, or a ConfigError that lists the valid names."""
    if name not in registry:
        raise ConfigError(
            f"{key} = {name!r} is not known; use one of: {', '.join(sorted(registry))}"
        )
    return registry[name]
