"""One configuration folded over the files, from mark to mark, with the sums of what was judged at each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stream_mtl import build
from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.evaluation import Evaluation, Totals
from stream_mtl.files import cuts_of_files, records_of_files
from stream_mtl.tuning.objective import Objective, Qualities

PARTS = 12  # marks of the tuning span: a trial can end early at each
COUNTED_FROM = 8  # parts; those before are warm-up
BLOCKS = 20  # of the later span: the noise of a difference is told from how it differs between them

_NEVER_MS = 10**15


@dataclass(frozen=True, slots=True)
class Marks:
    """Numbers of records, ascending: ends of the PARTS of the tuning span, then of the later span's BLOCKS."""

    tuning: tuple[int, ...]
    later: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    records: int
    digest: str  # of all lines, hex


def survey(files: Sequence[Path], config: Config) -> Survey:
    """Raises ConfigError for a missing file, StorageError for an unreadable one."""
    cuts_of_files(files, config)  # complains about missing files
    h, records = hashlib.blake2b(digest_size=16), 0
    for record in records_of_files(files, config.source.max_record_bytes):
        h.update((record.value or b"") + b"\n")
        records += 1
    return Survey(records, h.hexdigest())


def marks(records: int, share: float) -> Marks:
    """The cut in time, by records: the order of the log is that of time, and its busy hours count more."""
    end = round(records * share)
    return Marks(
        tuple(round(end * part / PARTS) for part in range(1, PARTS + 1)),
        tuple(end + round((records - end) * block / BLOCKS) for block in range(1, BLOCKS + 1)),
    )


def unpublished(config: Config) -> Config:
    """The same learning and the same judgement, but next to no lists, which cost more than half of the time.

    `candidates` stay as they are: negatives of a click that nothing had shown are drawn from them.
    """
    quiet = {"published": 1, "min_interval_ms": _NEVER_MS, "quiet_users": 0}
    return config.model_copy(update={"scoring": config.scoring.model_copy(update=quiet)})


class TrialFold:
    """A fold that stops at marks. `sums[0]` is before the first record, `sums[i]` those at the i-th mark asked for."""

    def __init__(self, config: Config, files: Sequence[Path]) -> None:
        """Raises ConfigError where the settings do not go together."""
        self._pipeline = build(unpublished(config), "tune")
        self._cuts = cuts_of_files(files, config)
        self._tasks = len(config.tasks)
        self._records = 0
        self.sums = [self._totals()]

    def to(self, mark: int) -> None:
        """Fold on to the first cut's end at or after `mark` records. Raises NumericError."""
        while self._records < mark and (cut := next(self._cuts, None)) is not None:
            self._pipeline.step(cut)
            self._records += len(cut.records)
        self.sums.append(self._totals())

    def qualities(self, first: int, last: int) -> Qualities:
        """Of what came after mark `first`, up to mark `last`."""
        return self._evaluation().qualities(self.sums[last].since(self.sums[first]))

    def value(self, objective: Objective, first: int, last: int) -> float | None:
        return objective.value(self.qualities(first, last))

    def without_each_block(self, objective: Objective, first: int, last: int) -> list[float | None]:
        """The objective between two marks, each time without one of the parts between neighbouring marks."""
        whole = self.sums[last].since(self.sums[first])
        blocks = [self.sums[i + 1].since(self.sums[i]) for i in range(first, last)]
        rest = (self._evaluation().qualities(whole.since(block)) for block in blocks)
        return [objective.value(qualities) for qualities in rest]

    def _evaluation(self) -> Evaluation:
        return self._pipeline.parts.evaluation

    def _totals(self) -> Totals:
        if len(self._pipeline.config.tasks) != self._tasks:
            raise ConfigError(
                "these events add a task by a command, so that the sums before and after it are of different"
                " tasks; name it under [tasks] and leave the command out"
            )
        return self._evaluation().totals()
