"""Files of events (`.jsonl`, `.jsonl.gz`) as cuts, for backtests.

A file's lines are the records of topic `file`, partition 0; the offset is the running line number over
all files in argument order, from 0. So the cuts, and with them the state, do not depend on the pieces
in which the lines come. Every line is a record, an empty one too: it is refused, not passed over.

A cut closes before a record whose event time is more than `cut.file_span_ms` after the first event time
in the cut, or when it holds `cut.max_records`. The time is read from the bytes, without decoding the
record a second time: the one integer behind `"event_time":`. Where that is missing or not alone, the JSON
is parsed for it. A record without a readable time just joins the cut.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, cast

from stream_mtl.config import Config
from stream_mtl.cut import Cut, Range, Record, records_digest
from stream_mtl.errors import ConfigError, StorageError

TOPIC = "file"
_TIME = re.compile(rb'"event_time"\s*:\s*(\d{1,16})\s*[,}]')
_CHUNK = 1 << 20  # bytes dropped at a time from a line that is too long to be a record


def cuts_of_files(paths: Sequence[str | Path], config: Config) -> Iterator[Cut]:
    """The cuts of these files. Raises ConfigError for a missing file, StorageError for an unreadable one."""
    for path in map(Path, paths):
        if not path.is_file():
            raise ConfigError(f"no such file of events: {path}; expected .jsonl or .jsonl.gz")
    return cuts_of_records(records_of_files(paths, config.source.max_record_bytes), config)


def cuts_of_records(records: Iterable[Record], config: Config) -> Iterator[Cut]:
    """Cuts of one partition's records in offset order, by event time and count."""
    span_ms, most = config.cut.file_span_ms, config.cut.max_records
    held: list[Record] = []
    first_ms: int | None = None
    number, start = 0, 0
    for record in records:
        time_ms = event_time(record.value)
        late = time_ms is not None and first_ms is not None and time_ms > first_ms + span_ms
        if held and (late or len(held) >= most):
            yield _cut(number, start, held)
            number, start = number + 1, held[-1].offset + 1
            held, first_ms = [], None
        held.append(record)
        if first_ms is None:
            first_ms = time_ms
    if held:
        yield _cut(number, start, held)


def records_of_files(paths: Sequence[str | Path], max_bytes: int) -> Iterator[Record]:
    """One record a line. A line over `max_bytes` is kept cut short by a byte beyond that, to be refused."""
    offset = 0
    for path in map(Path, paths):
        try:
            with _open(path) as lines:
                while line := lines.readline(max_bytes + 2):
                    if not line.endswith(b"\n"):
                        _skip_rest(lines)
                    value = line.rstrip(b"\r\n")[: max_bytes + 1]
                    yield Record(TOPIC, 0, offset, None, value)
                    offset += 1
        except (OSError, EOFError) as error:
            raise StorageError(
                f"cannot read {path} after {offset} lines: {error}; is the file whole?"
            ) from error


def event_time(value: bytes | None) -> int | None:
    """Epoch milliseconds of a record's `event_time`, None where it has no readable one."""
    if value is None:
        return None
    if value.count(b'"event_time"') == 1 and (hit := _TIME.search(value)):
        return int(hit[1])
    try:
        found = json.loads(value)["event_time"]
        if isinstance(found, str):
            moment = datetime.fromisoformat(found)
            return None if moment.tzinfo is None else round(moment.timestamp() * 1000)
        return found if isinstance(found, int) and not isinstance(found, bool) else None
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def _cut(number: int, start: int, held: list[Record]) -> Cut:
    stop = held[-1].offset + 1
    span = Range(TOPIC, 0, start, stop, len(held), records_digest(held))
    return Cut(number, tuple(held), (span,), published_at=None)


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _skip_rest(lines: BinaryIO) -> None:
    while (rest := lines.readline(_CHUNK)) and not rest.endswith(b"\n"):
        pass
