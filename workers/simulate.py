"""The simulated shop's records to a stream of lines or to topics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from stream_mtl.config import Config
from stream_mtl.errors import StorageError
from stream_mtl.simulator import Simulated, as_line, truth_lines
from workers.backtest import open_lines

Clock = Callable[[], float]


class Writer(Protocol):
    """What `kafka.produce.EventWriter` offers."""

    def write(
        self,
        topic: str,
        key: bytes | str | None,
        value: bytes | None,
        timestamp_ms: int | None = None,
    ) -> None: ...


def paced(
    records: Iterable[Simulated],
    rate: float | None,
    clock: Clock = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Simulated]:
    """The same records, `rate` of them a second on average; None as fast as they are taken."""
    started = clock()
    for number, record in enumerate(records):
        if rate is not None and (ahead := number / rate - (clock() - started)) > 0:
            sleep(ahead)
        yield record


@contextmanager
def with_truth(records: Iterable[Simulated], truth: Path | None) -> Iterator[Iterable[Simulated]]:
    """The same records; the true probabilities of each exposure are written aside as they pass."""
    with ExitStack() as stack:
        if truth is None:
            yield records
        else:
            yield _tee(records, stack.enter_context(open_lines(truth)))


def to_stream(records: Iterable[Simulated], stream: BinaryIO) -> int:
    """One line a record; how many."""
    written = 0
    for record in records:
        stream.write(as_line(record) + b"\n")
        written += 1
    stream.flush()
    return written


def to_topics(records: Iterable[Simulated], config: Config, writer: Writer) -> int:
    """Events and items to their topics, the event time as Kafka timestamp; how many."""
    topic_of = {"events": config.topics.events[0], "items": config.topics.items}
    written = 0
    for record in records:
        writer.write(topic_of[record.topic_kind], record.key, record.value, record.event_time)
        written += 1
    return written


def _tee(records: Iterable[Simulated], truth: BinaryIO) -> Iterator[Simulated]:
    for record in records:
        if record.truth:
            try:
                truth.writelines(line + b"\n" for line in truth_lines([record]))
            except OSError as error:
                raise StorageError(f"cannot write the truth: {error.strerror}") from error
        yield record
