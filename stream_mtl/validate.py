"""How good a file of events is: what a reader would take, what it would refuse, and what is filled in."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from stream_mtl.config import Config
from stream_mtl.cut import Record, Reject
from stream_mtl.events import Command
from stream_mtl.hashing import hash64
from stream_mtl.serde import FILE_TOPIC, AnyWire, decode, parse

SHOWN_LINES = 5  # line numbers named for each reason
MAX_UNKNOWN = 50  # names of unknown fields counted: a file whose keys are data must not fill memory


def validate_file(lines: Iterable[bytes], config: Config) -> dict[str, Any]:
    """A JSON-ready report of one file of JSON lines; line numbers begin at 1, blank lines are skipped.

    `coverage`: for each type and field the share of its records where the field is there and not null.
    `duplicates`: events whose id (given, or the hash of their content) came before.
    """
    survey = _Survey(config)
    for number, line in enumerate(lines, start=1):
        value = line.strip()
        if value:
            survey.add(number, value)
    return survey.report()


class _Survey:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.records = self.commands = self.out_of_order = 0
        self.types: Counter[str] = Counter()
        self.fields: dict[str, Counter[str]] = {}
        self.unknown: dict[str, Counter[str]] = {}
        self.reasons: Counter[str] = Counter()
        self.reason_lines: dict[str, list[dict[str, object]]] = {}
        self.duplicates = 0
        self.duplicate_lines: list[int] = []
        self.seen: set[int] = set()  # hashes of ids: 64 bits each, whatever the ids' lengths
        self.first_ms: int | None = None
        self.last_ms: int | None = None

    def add(self, number: int, value: bytes) -> None:
        self.records += 1
        record = Record(topic=FILE_TOPIC, partition=0, offset=number - 1, key=None, value=value)
        out = decode(record, self.config.source, self.config.topics)
        if isinstance(out, Reject):
            self._add_reject(number, out)
            return
        wire = parse(record, value, self.config.source)
        assert not isinstance(wire, Reject)
        self._add_fields(wire, value)
        if isinstance(out, Command):
            self.commands += 1
        else:
            self._add_event(number, out.event_id, out.time_ms)

    def _add_reject(self, number: int, reject: Reject) -> None:
        self.reasons[reject.reason] += 1
        named = self.reason_lines.setdefault(reject.reason, [])
        if len(named) < SHOWN_LINES:
            named.append({"line": number, "message": reject.message})

    def _add_fields(self, wire: AnyWire, value: bytes) -> None:
        self.types[wire.type] += 1
        filled = self.fields.setdefault(wire.type, Counter())
        filled.update(n for n in wire.model_fields_set if getattr(wire, n) is not None)
        unknown = self.unknown.setdefault(wire.type, Counter())
        for name in json.loads(value).keys() - type(wire).model_fields.keys():
            if name in unknown or len(unknown) < MAX_UNKNOWN:
                unknown[name] += 1

    def _add_event(self, number: int, event_id: str, time_ms: int) -> None:
        identity = hash64(event_id)
        if identity in self.seen:
            self.duplicates += 1
            if len(self.duplicate_lines) < SHOWN_LINES:
                self.duplicate_lines.append(number)
        self.seen.add(identity)
        if self.last_ms is not None and time_ms < self.last_ms:
            self.out_of_order += 1
        self.first_ms = time_ms if self.first_ms is None else min(self.first_ms, time_ms)
        self.last_ms = time_ms if self.last_ms is None else max(self.last_ms, time_ms)

    def report(self) -> dict[str, Any]:
        rejected = sum(self.reasons.values())
        return {
            "records": self.records,
            "valid": self.records - rejected,
            "rejected": rejected,
            "commands": self.commands,
            "types": dict(sorted(self.types.items())),
            "reasons": {
                reason: {"count": count, "first": self.reason_lines[reason]}
                for reason, count in sorted(self.reasons.items())
            },
            "coverage": {
                kind: {name: count / self.types[kind] for name, count in sorted(filled.items())}
                for kind, filled in sorted(self.fields.items())
            },
            "unknown_fields": {
                kind: dict(sorted(names.items()))
                for kind, names in sorted(self.unknown.items())
                if names
            },
            "time": {"first_ms": self.first_ms, "last_ms": self.last_ms},
            "out_of_order": self.out_of_order,
            "duplicates": {"count": self.duplicates, "first_lines": self.duplicate_lines},
        }
