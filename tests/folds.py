"""A small fold, and lines of events to feed it with: for tests of the pipeline and of scoring."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from stream_mtl import build
from stream_mtl.config import Config
from stream_mtl.cut import Cut, Range, Record, records_digest
from stream_mtl.files import TOPIC, cuts_of_records
from stream_mtl.pipeline import Pipeline
from stream_mtl.simulator import as_line, simulate

NOON = 1_704_110_400_000  # 2024-01-01T12:00:00Z


def small(**sections: Any) -> Config:
    """Few rows everywhere, so that a step takes milliseconds; `sections` are laid over it."""
    settings: dict[str, Any] = {
        "features": {"table_rows": 4096},
        "memory": {"rows": 500},
        "learner": {"batch_rows": 128},
        "scoring": {"candidates": 30, "published": 10},
        "cut": {"file_span_ms": 600_000},
        "evaluation": {"probe_every": 3, "probe_rows": 200},
    }
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section}
    return Config.model_validate(settings)


def shop_cuts(config: Config, events: int, scenario: str = "steady", seed: int = 3) -> list[Cut]:
    """The simulated shop as cuts of a file."""
    return list(
        cuts_of_records(as_records(as_line(s) for s in simulate(scenario, events, seed)), config)
    )


def as_records(values: Iterable[bytes]) -> list[Record]:
    return [Record(TOPIC, 0, offset, None, value) for offset, value in enumerate(values)]


def line(kind: str, time_ms: int, **fields: Any) -> bytes:
    return json.dumps({"type": kind, "event_time": time_ms, **fields}).encode()


class Fold:
    """A pipeline that takes lines: every call is one cut, right after the one before."""

    def __init__(self, config: Config | None = None) -> None:
        self.model: Pipeline = build(config or small(), "test")
        self._offset = 0

    def cut(self, *lines: bytes) -> dict[str, dict[str, Any] | None]:
        """What was published, by key; None is a tombstone."""
        values = self.outputs(lines)
        return {key: None if value is None else json.loads(value) for key, value in values}

    def outputs(self, lines: Sequence[bytes]) -> list[tuple[str, bytes | None]]:
        start = self._offset
        records = [Record(TOPIC, 0, start + n, None, value) for n, value in enumerate(lines)]
        self._offset += len(records)
        span = Range(TOPIC, 0, start, self._offset, len(records), records_digest(records))
        result = self.model.step(Cut(self.model.cuts, records, (span,), None))
        return [(output.key, output.value) for output in result.outputs]
