"""Searches: how the items nearest to a vector are found among those of the whole catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stream_mtl.config import Config
from stream_mtl.registry import entry
from stream_mtl.searches.base import Found, Search, Setup, Sought
from stream_mtl.searches.exact import Exact
from stream_mtl.searches.ivf import Inverted
from stream_mtl.state import State, Stateful, nest, unnest

SEARCHES: dict[str, Callable[[Setup], Search]] = {"exact": Exact, "ivf": Inverted}


class Searches(Stateful):
    """One for each kind of vector that items have: of their titles, and learned ones."""

    def __init__(self, config: Config) -> None:
        settings = config.retrieval
        setup = Setup(settings.index_from, settings.probes, config.seed, config.threads)
        made = entry("retrieval.search", settings.search, SEARCHES)
        self.titles, self.learned = made(setup), made(setup)

    def state(self) -> State:
        return {**nest("titles", self.titles.state()), **nest("learned", self.learned.state())}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.titles.restore(unnest("titles", state))
        self.learned.restore(unnest("learned", state))


__all__ = ["SEARCHES", "Found", "Search", "Searches", "Setup", "Sought"]
