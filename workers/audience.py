"""The two ends of the demo: a shop that writes at the pace of its reader, and a subscriber to the lists."""

from __future__ import annotations

import json
import threading
import time
from types import TracebackType
from typing import Any

from stream_mtl.config import Config
from stream_mtl.cut import CutResult
from stream_mtl.kafka.produce import EventWriter, ScoreReader
from stream_mtl.simulator import Simulated, simulate
from workers import output
from workers.observer import CutFacts, Silent
from workers.simulate import to_topics
from workers.stop import Stop

# The mock broker keeps 5 MiB a partition and drops what is older unread: an event has under 1 kB, and all
# of them may fall on one partition
MAX_AHEAD = 3_000
_PLACES, _PEOPLE = 5, 2  # of a sample list; users shown


class Shop(Silent):
    """Writes the events in a thread, ahead of the trainer by at most MAX_AHEAD; sets `stop` when the trainer
    has committed all of them, which it learns as an observer."""

    def __init__(self, config: Config, scenario: str, events: int, seed: int, stop: Stop) -> None:
        self._config, self._stop = config, stop
        self._records = simulate(scenario, events, seed)
        self._committed = 0
        self._written: int | None = None  # known when the writer is done
        self._closed = False
        self._failure: BaseException | None = None
        self.titles: dict[str, str] = {}
        self._thread = threading.Thread(target=self._write, name="shop", daemon=True)

    def cut(self, result: CutResult, facts: CutFacts) -> None:
        self._committed += result.counts.get("events", 0)
        self._stop_when_done()

    def tick(self) -> None:
        self._stop_when_done()

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Shop:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._closed = True
        self._thread.join(10)

    def _write(self) -> None:
        try:
            writer = EventWriter(self._config, hold=self._hold)
            written = to_topics(self._noting(), self._config, writer)
            writer.flush()
            self._written = written
            self._stop_when_done()
        except BaseException as error:  # told in the main thread, which is waiting for events
            self._failure = error
            self._stop.set()

    def _noting(self) -> Any:
        for record in self._records:
            if self._closed or self._stop():
                return
            if record.topic_kind == "items":
                self._note_title(record)
            yield record

    def _note_title(self, record: Simulated) -> None:
        if record.value is None or record.poison:
            return
        item = json.loads(record.value)
        if "title" in item:
            self.titles[item["item_id"]] = item["title"]

    def _hold(self, written: int) -> bool:
        return written - self._committed >= MAX_AHEAD and not self._closed and not self._stop()

    def _stop_when_done(self) -> None:
        if self._written is not None and self._committed >= self._written:
            self._stop.set()


class Audience:
    """Reads the score topic in a thread, as any subscriber would, and keeps the newest lists."""

    def __init__(self, config: Config, shop: Shop, started: float) -> None:
        self._config, self._shop, self._started = config, shop, started
        self._lists: dict[str, dict[str, Any]] = {}
        self._leave = threading.Event()
        self._thread = threading.Thread(target=self._read, name="audience", daemon=True)
        self.first_score_seconds: float | None = None

    def __enter__(self) -> Audience:
        self._reader = ScoreReader(self._config)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._leave.set()
        self._thread.join(10)
        self._reader.close()

    def catch_up(self) -> None:
        """Read to the end of the topic, before the broker goes."""
        self._leave.set()
        self._thread.join(10)
        self._take(self._reader.read_to_end())

    def samples(self) -> list[str]:
        """The newest lists of some people, with titles."""
        people = [key for key in self._lists if key.startswith("user:")][-_PEOPLE:]
        return [line for key in people for line in self._describe(key)]

    def _read(self) -> None:
        while not self._leave.is_set():
            self._take(self._reader.read(0.1))

    def _take(self, records: list[Any]) -> None:
        for record in records:
            if record.value is None:
                self._lists.pop(record.key, None)
                continue
            self._lists.pop(record.key, None)  # to the end of the order: newest last
            self._lists[record.key] = json.loads(record.value)
            if self.first_score_seconds is None and record.key.startswith("user:"):
                self.first_score_seconds = time.monotonic() - self._started
                output.note(f"first score after {self.first_score_seconds:.1f} s")
                for line in self._describe(record.key):
                    output.note(line)

    def _describe(self, key: str) -> list[str]:
        record = self._lists[key]
        lines = [f"{key}, from cut {record['model']['cut']}:"]
        for place, scored in enumerate(record["lists"]["home"][:_PLACES], 1):
            title = self._shop.titles.get(scored["item_id"], scored["item_id"])
            chances = "  ".join(f"{task} {value:.3f}" for task, value in scored["scores"].items())
            lines.append(f"  {place}. {title:<44} {chances}")
        return lines
