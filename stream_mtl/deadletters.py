"""Dead letters: refused records with their context in headers, and the breaker that stops a flood of them.

Key, value, timestamp and original headers stay byte for byte, so that a repaired reader can take the
record again; only a record refused for its size is cut short, or one that is too large to be a letter. The text of an error is left out unless
asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.scores import LETTERS, REPLAYS_HEADER, Reason
from stream_mtl.config import DeadLetters
from stream_mtl.cut import Headers, Record, Reject
from stream_mtl.errors import StateError

KEPT_BYTES = 64 * 1024  # of an oversized value; its coordinates lead to the whole
MOST_BYTES = 1_900_000  # of a letter: what producer and topic take, less room for our headers


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record for the dead-letter topic; `timestamp_ms` None leaves the time to the producer."""

    key: bytes | None
    value: bytes | None
    timestamp_ms: int | None
    headers: Headers


def dead_letter(
    reject: Reject, cut_number: int, app: str, rank: int, config: DeadLetters
) -> DeadLetter:
    """What is written for a refused record. Its headers follow the original ones: the last one counts."""
    record = reject.record
    key, value, headers = _fitting(record, reject.reason == Reason.TOO_LARGE)
    facts = {
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "connector": app,
        "task": str(rank),
        "stage": reject.stage,
        "refused_by": f"stream_mtl.{reject.stage}",
        "reason": reject.reason,
        "message": reject.message if config.include_message else "",
        "stacktrace": "",  # a reject is a value: nothing was raised
        "cut": str(cut_number),
    }
    if (key, value, headers) != (record.key, record.value, record.headers):
        facts["whole_bytes"] = str(len(record.value or b""))
    style = LETTERS[config.header_style].model_fields
    added = tuple(
        (str(field.alias), facts[name].encode()) for name, field in style.items() if name in facts
    )
    return DeadLetter(key, value, record.timestamp_ms, headers + added)


def _fitting(record: Record, is_oversized: bool) -> tuple[bytes | None, bytes | None, Headers]:
    """Key, value and headers that a letter can hold: all of them but for a record that is too large.

    Headers go as a whole, since half of them would look like all; but the counter that bounds replays stays.
    """
    headers = sum(len(name) + len(value or b"") for name, value in record.headers)
    size = len(record.key or b"") + len(record.value or b"") + headers
    value, too_much = record.value, size > MOST_BYTES
    if value is not None and (is_oversized or too_much):
        value = value[:KEPT_BYTES]
    if not too_much:
        return record.key, value, record.headers
    key = None if record.key is None else record.key[:KEPT_BYTES]
    if headers <= KEPT_BYTES:
        return key, value, record.headers
    return key, value, tuple(one for one in record.headers if one[0] == REPLAYS_HEADER)


class Breaker:
    """Opens when more than `breaker_share` of the last `breaker_window` records were refused.

    That is a broken producer, not poison: reading should stop instead of pouring a topic into the dead
    letters. Pure: it is fed counts, cut by cut. With fewer records than a window the share is still of
    the whole window, so that one bad first record does not open it. Once open it stays so until `close`,
    or a good `probe`. It decides when a worker reads, never what a cut does to the state.
    """

    def __init__(self, config: DeadLetters) -> None:
        self._share, self._window = config.breaker_share, config.breaker_window
        self._cuts: deque[tuple[int, int]] = deque()  # (records, rejects), whole cuts only
        self._records = self._rejects = 0
        self.open = False

    def feed(self, records: int, rejects: int) -> bool:
        """Count one cut; gives whether the breaker is open now."""
        if records:
            self._cuts.append((records, rejects))
            self._records += records
            self._rejects += rejects
        while self._cuts and self._records - self._cuts[0][0] >= self._window:
            old_records, old_rejects = self._cuts.popleft()
            self._records -= old_records
            self._rejects -= old_rejects
        if self._rejects > self._share * max(self._records, self._window):
            self.open = True
        return self.open

    @property
    def probe_records(self) -> int:
        """How many records a probe reads at most."""
        return max(1, self._window // 10)

    def probe(self, records: int, rejects: int) -> bool:
        """Judge a small cut that was read although the breaker is open: a good one closes it.

        Gives whether it is open now. The limit is the share of what the probe read, not of a window.
        """
        if self.open and records and rejects <= self._share * records:
            self.close()
            return self.feed(records, rejects)
        return self.open

    def close(self) -> None:
        """`resume`: forget what was counted and read on."""
        self._cuts.clear()
        self._records = self._rejects = 0
        self.open = False

    def state(self) -> dict[str, Any]:
        return {"cuts": [list(cut) for cut in self._cuts], "open": self.open}

    def restore(self, state: Mapping[str, Any]) -> None:
        if state.keys() != {"cuts", "open"}:
            raise StateError(f"breaker: expected cuts and open, found {sorted(state)}")
        self._cuts = deque((int(records), int(rejects)) for records, rejects in state["cuts"])
        self._records = sum(records for records, _ in self._cuts)
        self._rejects = sum(rejects for _, rejects in self._cuts)
        self.open = bool(state["open"])
