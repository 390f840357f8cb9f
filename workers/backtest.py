"""A backtest: the fold over files, from an empty state, with no broker."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, cast

from stream_mtl.config import Config
from stream_mtl.cut import Output
from stream_mtl.errors import StorageError
from stream_mtl.files import cuts_of_files
from stream_mtl.serde import score_line
from workers.observer import CutFacts, Observer, Silent


def run_backtest(
    config: Config,
    files: Sequence[Path],
    scores: Path | None = None,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Fold the files in this order; returns the summary object of `contract`.

    Raises ConfigError (no such file), StorageError (unreadable input, unwritable scores).
    """
    started = time.monotonic()
    observer = observer or Silent()
    cuts = cuts_of_files(files, config)  # complains about missing files before torch is loaded
    observer.phase("starting")
    from stream_mtl import build

    model = build(config, "backtest")
    observer.phase("running")
    running = time.monotonic()
    first_score: float | None = None
    with ExitStack() as stack:
        sink = stack.enter_context(open_lines(scores)) if scores else None
        for cut in cuts:
            step_started = time.perf_counter()
            result = model.step(cut)
            seconds = time.perf_counter() - step_started
            if first_score is None and result.outputs:
                first_score = time.monotonic() - started
            if sink is not None:
                _write(sink, result.outputs)
            facts = CutFacts(
                step_seconds=seconds,
                records={cut.ranges[0].topic: len(cut.records)},
                quality=model.quality,
                reports=model.reports,
            )
            observer.cut(result, facts)
    elapsed = time.monotonic() - running
    summary: dict[str, Any] = {"delivery": "file", **model.summary()}
    summary["first_score_seconds"] = first_score
    summary["events_per_second"] = summary["events_consumed"] / elapsed if elapsed > 0 else 0.0
    observer.summary(summary)
    observer.phase("stopped", reason="end of the files")
    return summary


def _write(sink: BinaryIO, outputs: Iterable[Output]) -> None:
    try:
        sink.writelines(score_line(output) + b"\n" for output in outputs)
    except OSError as error:
        raise StorageError(f"cannot write scores to {sink.name}: {error.strerror}") from error


def open_lines(path: Path) -> BinaryIO:
    """A file to write lines to, compressed when its name ends in .gz. Raises StorageError."""
    try:
        if path.suffix == ".gz":
            return cast(BinaryIO, gzip.open(path, "wb", compresslevel=1))
        return path.open("wb")
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
