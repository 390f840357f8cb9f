"""One multi-task model of a shop, kept fresh from Kafka without forgetting.

>>> from stream_mtl import Config, build, cuts
>>> model = build(Config())                             # the whole fold, no broker    # doctest: +SKIP
>>> for cut in cuts(["day.jsonl.gz"]):                  # micro-batches of a file      # doctest: +SKIP
...     result = model.step(cut)                        # scores, rejects, counts

The names below are the public API; everything else may change. Importing this package is cheap: torch
is loaded by `build`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stream_mtl.config import Config
from stream_mtl.cut import Cut, CutResult, Record

if TYPE_CHECKING:
    from stream_mtl.pipeline import Pipeline

__all__ = ["Config", "Cut", "CutResult", "Record", "build", "cuts"]


def build(config: Config, lineage: str = "local") -> Pipeline:
    """The fold that `config` describes, in its empty state. Raises ConfigError."""
    from stream_mtl.composition import compose

    return compose(config, lineage)


def cuts(paths: Sequence[str | Path], config: Config | None = None) -> Iterator[Cut]:
    """Micro-batches of event files, as `stream-mtl backtest` cuts them; `config` says how large (`cut`)."""
    from stream_mtl.files import cuts_of_files

    return cuts_of_files(paths, config or Config())
