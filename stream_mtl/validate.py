"""How good events are before a worker reads them: what it would refuse, and what is never filled in, misspelt, late or twice."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from typing import Any

from stream_mtl.config import Config
from stream_mtl.cut import Record, Reject
from stream_mtl.events import Command, Item
from stream_mtl.hashing import hash64
from stream_mtl.serde import AnyWire, decode, parse

EXAMPLES = 5  # places named of each fault
MAX_UNKNOWN = 50  # names of unknown fields counted: a file whose keys are data must not fill memory
MAX_IDS = 5_000_000  # ids remembered: a later duplicate of a later event is not seen


class Survey:
    """Takes records one by one, decoded as the worker decodes them."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._out_of_order = self._twice = 0
        self._types: Counter[str] = Counter()
        self._wires: dict[str, type[AnyWire]] = {}
        self._filled: dict[str, Counter[str]] = {}
        self._unknown: dict[str, Counter[str]] = {}
        self._reasons: dict[str, dict[str, Any]] = {}
        self._twice_at: list[str] = []
        self._ids: set[int] = set()  # hashed: 64 bits each, however long an id is
        self._first_ms: int | None = None
        self._last_ms: int | None = None

    def add(self, record: Record, place: str) -> None:
        """`place`: where a person finds the record."""
        out = decode(record, self._config.source, self._config.topics)
        if isinstance(out, Reject):
            self._refused(out, place)
            return
        value = record.value or b""
        wire = parse(record, value, self._config.source)
        assert not isinstance(wire, Reject)  # as a part of what was decoded above
        self._read(wire, value)
        if not isinstance(out, Command | Item):  # a catalogue may be told again at any time
            self._happened(out.event_id, out.time_ms, place)

    def _refused(self, reject: Reject, place: str) -> None:
        found = self._reasons.setdefault(reject.reason, {"records": 0, "examples": []})
        found["records"] += 1
        if len(found["examples"]) < EXAMPLES:
            found["examples"].append({"at": place, "message": reject.message})

    def _read(self, wire: AnyWire, value: bytes) -> None:
        kind = wire.type
        self._types[kind] += 1
        self._wires[kind] = type(wire)
        filled = self._filled.setdefault(kind, Counter())
        filled.update(name for name in wire.model_fields_set if getattr(wire, name) is not None)
        unknown = self._unknown.setdefault(kind, Counter())
        for name in json.loads(value).keys() - type(wire).model_fields.keys():
            if name in unknown or len(unknown) < MAX_UNKNOWN:
                unknown[name] += 1

    def _happened(self, event_id: str, time_ms: int, place: str) -> None:
        identity = hash64(event_id)
        if identity in self._ids:
            self._twice += 1
            if len(self._twice_at) < EXAMPLES:
                self._twice_at.append(place)
        elif len(self._ids) < MAX_IDS:
            self._ids.add(identity)
        if self._last_ms is not None and time_ms < self._last_ms:
            self._out_of_order += 1
        self._first_ms = time_ms if self._first_ms is None else min(self._first_ms, time_ms)
        self._last_ms = time_ms if self._last_ms is None else max(self._last_ms, time_ms)

    def report(self) -> dict[str, Any]:
        """JSON-ready.

        filled           of each type the share of its records in which a field that may be left out is there
        unknown_fields   of each type, by field: records with it, and a known field of a similar name or null
        out_of_order     events older than the newest before them
        duplicates       events whose id (given, or the hash of their content) came before
        """
        return {
            "valid": self._types.total(),
            "refused": sum(found["records"] for found in self._reasons.values()),
            "events": dict(self._types.most_common()),
            "reasons": dict(sorted(self._reasons.items())),
            "filled": {kind: self._shares(kind) for kind in sorted(self._types)},
            "unknown_fields": {
                kind: {
                    name: {"records": records, "similar": _similar(name, self._wires[kind])}
                    for name, records in sorted(names.items())
                }
                for kind, names in sorted(self._unknown.items())
                if names
            },
            "time": {"first_ms": self._first_ms, "last_ms": self._last_ms},
            "out_of_order": self._out_of_order,
            "duplicates": {"records": self._twice, "examples": self._twice_at},
        }

    def _shares(self, kind: str) -> dict[str, float]:
        optional = [n for n, f in self._wires[kind].model_fields.items() if not f.is_required()]
        return {
            name: self._filled[kind][name] / self._types[kind]
            for name in optional
            if name not in ("type", "schema_version")
        }


def _similar(name: str, wire: type[AnyWire]) -> str | None:
    near = difflib.get_close_matches(name, list(wire.model_fields), n=1, cutoff=0.75)
    return near[0] if near else None
