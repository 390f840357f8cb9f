"""A broker in memory, a source and sinks on it, and a tiny fold: worlds in which a test may die anywhere.

The fakes replace the outermost edge only. They keep the promises of the real ones that recovery rests
on: a transaction is all or nothing, a flushed record stays, a cut's borders depend on chance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from schemas.scores import ConnectHeader
from stream_mtl.commands import obey
from stream_mtl.config import Config
from stream_mtl.cut import Cut, CutResult, Output, Range, Record, Reject, records_digest
from stream_mtl.errors import PositionLost
from stream_mtl.failpoints import FAILPOINTS, Failpoint, unarmed
from stream_mtl.kafka.publication import Claim, Committed, Publication
from stream_mtl.kafka.unstable import Unstable
from stream_mtl.orders import Orders
from stream_mtl.scoring import Moment
from stream_mtl.serde import decode_all
from stream_mtl.state import State, digest, nest, unnest

Place = tuple[str, int]
CONTROL: Place = ("shop.control", 0)
_COMMITS = FAILPOINTS.index("commit.sent")  # up to here a transaction leaves nothing behind


class Died(BaseException):
    """Stands for SIGKILL: no handler of the code under test may take it for an error of its own."""


@dataclass(slots=True)
class DieAt:
    """A failpoint that dies at its n-th hit, whichever name it has; 0 never. `hits` counts all."""

    at: int = 0
    hits: int = 0
    names: list[str] = field(default_factory=list)

    def __call__(self, name: str) -> None:
        self.hits += 1
        self.names.append(name)
        if self.hits == self.at:
            raise Died(name)


@dataclass(slots=True)
class MemoryLog:
    """What is durable: it survives every death of a worker. Every ledger record takes two offsets."""

    records: dict[Place, list[Record]] = field(default_factory=dict)
    ledger: list[bytes] = field(default_factory=list)
    scores: list[tuple[int, str, bytes | None]] = field(default_factory=list)  # cut, key, value
    acks: list[tuple[int, str, bytes | None]] = field(default_factory=list)  # cut, id, value
    dead_letters: list[tuple[Place, int]] = field(default_factory=list)
    offsets: dict[Place, int] = field(default_factory=dict)
    first: dict[Place, int] = field(default_factory=dict)  # retention: older records are gone

    def fill(self, places: Sequence[Place], values: Sequence[bytes]) -> None:
        """Deal the values out over the partitions in turn."""
        for number, value in enumerate(values):
            place = places[number % len(places)]
            own = self.records.setdefault(place, [])
            own.append(Record(*place, len(own), b"k%d" % (number % 5), value, number))

    def say(self, kind: str, command_id: str, **arguments: object) -> None:
        """A command on the control topic."""
        own = self.records.setdefault(CONTROL, [])
        whole = {"type": kind, "command_id": command_id, "issued_at": 0, **arguments}
        own.append(Record(*CONTROL, len(own), None, json.dumps(whole).encode(), len(own)))

    def read_ledger(self, from_offset: int | None) -> list[tuple[int, bytes]]:
        whole = [(number * 2, raw) for number, raw in enumerate(self.ledger)]
        return [one for one in whole if from_offset is None or one[0] >= from_offset]

    def last_record(self) -> tuple[int, bytes] | None:
        return (len(self.ledger) * 2 - 2, self.ledger[-1]) if self.ledger else None


class MemorySource:
    """Cuts of one to `most` records, by a generator that no two runs share: the poll timing of a test."""

    def __init__(
        self, log: MemoryLog, seed: int, most: int = 7, clock: Callable[[], int] = int
    ) -> None:
        self._log, self._most, self._clock = log, most, clock
        self._generator = torch.Generator().manual_seed(seed)
        self.positions: dict[Place, int] = {}
        self.gap_records: dict[str, int] = {}

    @property
    def at_end(self) -> bool:
        return all(at >= len(self._log.records[place]) for place, at in self.positions.items())

    def prove(self) -> None: ...

    def open(self, positions: Mapping[Place, int]) -> None:
        self.positions = {place: positions.get(place, 0) for place in sorted(self._log.records)}

    def close(self) -> None: ...

    def unstable(self, fresh: bool = False) -> dict[Place, Unstable]:
        return {}

    def lag(self) -> dict[Place, int]:
        return {p: len(self._log.records[p]) - at for p, at in self.positions.items()}

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        yield

    @property
    def commands_at_end(self) -> bool:
        return self.positions.get(CONTROL, 0) >= len(self._log.records.get(CONTROL, ()))

    def next_commands(self, number: int, stop: Callable[[], bool] = lambda: False) -> Cut | None:
        if self.commands_at_end or stop():
            return None
        return self.cut_until(number, {CONTROL: self.positions[CONTROL] + 1})

    def next_cut(
        self,
        number: int,
        stop: Callable[[], bool] = lambda: False,
        at_most: int | None = None,
    ) -> Cut | None:
        if self.at_end or stop():
            return None
        stops: dict[Place, int] = {}
        left = len(self.positions) * self._most if at_most is None else at_most
        for place, at in self.positions.items():
            chance = int(torch.randint(0, self._most, (), generator=self._generator))
            stops[place] = min(at + min(chance, left), len(self._log.records[place]))
            left -= stops[place] - at
        return self.cut_until(number, stops)

    def cut_until(self, number: int, stops: Mapping[Place, int]) -> Cut:
        ranges: list[Range] = []
        for place, at in self.positions.items():
            own = self._log.records[place][at : stops.get(place, at)]
            ranges.append(Range(*place, at, at + len(own), len(own), records_digest(own)))
        records = self.read(ranges)
        return Cut(number, tuple(records), tuple(ranges), self._clock())

    def return_to(self, positions: Mapping[Place, int]) -> None:
        self.positions.update(positions)

    def read(self, ranges: Sequence[Range]) -> list[Record]:
        found: list[Record] = []
        for one in ranges:
            place = (one.topic, one.partition)
            if one.start < self._log.first.get(place, 0) and one.stop > one.start:
                raise PositionLost(f"{place} starts at {self._log.first[place]}")
            found += self._log.records[place][one.start : one.stop]
            self.positions[place] = one.stop
        return found


class MemoryTransactions:
    """A sink whose commit is one assignment: all of a cut becomes visible together."""

    delivery = "exactly_once"

    def __init__(self, log: MemoryLog, failpoint: Failpoint = unarmed) -> None:
        self._log, self._failpoint = log, failpoint

    def open(self) -> None: ...

    def close(self) -> None: ...

    def refresh(
        self, cut_number: int, positions: Mapping[Place, int], claim: Claim | None = None
    ) -> None:
        self._log.offsets.update(positions)

    def commit(self, publication: Publication) -> Committed:
        for name in FAILPOINTS[FAILPOINTS.index("commit.beginning") : _COMMITS]:
            self._failpoint(name)
        self._log.ledger.append(publication.ledger)
        for row in _rows(publication):
            self._log.scores.append(row)
        self._letters(publication)
        self._log.acks += _rows(publication, publication.acks)
        self._log.offsets.update(publication.positions)
        for name in ("commit.sent", "commit.acknowledged"):
            self._failpoint(name)
        return Committed(publication.cut.number, len(self._log.ledger) * 2 - 2, 0.0, 0.0)

    def _letters(self, publication: Publication) -> None:
        for letter in publication.dead_letters:
            headers = {name: (value or b"").decode() for name, value in letter.headers}
            place = headers[ConnectHeader.TOPIC], int(headers[ConnectHeader.PARTITION])
            self._log.dead_letters.append((place, int(headers[ConnectHeader.OFFSET])))


class MemoryPlain(MemoryTransactions):
    """A sink without transactions: the ledger record, then outputs one by one, then offsets."""

    delivery = "at_least_once"

    def commit(self, publication: Publication) -> Committed:
        self._failpoint("commit.begin")
        self._log.ledger.append(publication.ledger)
        return self.republish(publication, len(self._log.ledger) * 2 - 2)

    def republish(self, publication: Publication, ledger_offset: int) -> Committed:
        self._failpoint("commit.produced")
        for row in _rows(publication):
            self._log.scores.append(row)
            self._failpoint("commit.flushed")
        self._letters(publication)
        self._log.acks += _rows(publication, publication.acks)
        self._log.offsets.update(publication.positions)
        self._failpoint("commit.acknowledged")
        return Committed(publication.cut.number, ledger_offset, 0.0, 0.0)


def _rows(
    publication: Publication, outputs: Sequence[Output] | None = None
) -> list[tuple[int, str, bytes | None]]:
    whole = publication.outputs if outputs is None else outputs
    return [(publication.cut.number, output.key, output.value) for output in whole]


class SumFold:
    """A fold that shows any difference: its state depends on every record and on the borders of cuts.

    A value that is no integer is rejected. Outputs carry cut, lineage and state, as real scores do. It obeys the
    commands that concern no model; its sums are what it learns.
    """

    def __init__(self, lineage: str) -> None:
        self.lineage = lineage
        self.cuts = 0
        self.reports: list[Any] = []
        self.watermark_ms = 0
        self.orders = Orders()
        self._sums = torch.zeros(5, dtype=torch.float64)
        self._events = 0
        self._chain = ""

    def step(self, cut: Cut) -> CutResult:
        keys: set[int] = set()
        rejects: list[Reject] = []
        config = Config()
        said = [record for record in cut.records if (record.topic, record.partition) == CONTROL]
        decoded = decode_all(said, config.source, config.topics)
        for record in cut.records:
            if (record.topic, record.partition) == CONTROL:
                continue
            if (record.topic, record.partition, record.offset) in cut.quarantined:
                rejects.append(Reject(record, "crash", "worker"))
                continue
            slot = int((record.key or b"k0")[1:])
            try:
                self._sums[slot] = self._sums[slot] * 0.9 + int(record.value or b"")
                keys.add(slot)
            except ValueError:
                rejects.append(Reject(record, "field_invalid", "serde"))
        self._sums *= 0.99
        self._events += len(cut.records)
        self.cuts = cut.number + 1
        outputs = tuple(
            Output(
                f"user:{slot}",
                f"{self.lineage} {cut.number} {cut.published_at} {float(self._sums[slot])!r}".encode(),
                cut.number,
            )
            for slot in sorted(keys)
        )
        text = repr([(output.key, output.value) for output in outputs])
        outputs_digest = hashlib.sha256(text.encode()).hexdigest()
        link = f"{self._chain} {cut.number} {outputs_digest} {self._sums.tolist()}"
        self._chain = hashlib.sha256(link.encode()).hexdigest()
        moment = Moment(cut.number, cut.published_at or 0, {})
        # the commands that these tests give ask for nothing but `orders`
        decisions, _ = obey(self, decoded.commands, moment, cut.targets, cut.number)  # type: ignore[arg-type]
        rejects += decoded.rejects
        counts = {"events": len(cut.records), "rejected": len(rejects)}
        return CutResult(
            cut.number,
            outputs,
            tuple(rejects),
            counts,
            outputs_digest,
            self._chain,
            cut.number,
            tuple(decisions),
        )

    def fits(self, saved: Mapping[str, Any]) -> list[str]:
        return []

    def roll_back(self, saved: Mapping[str, Any], cut: int) -> None:
        self._sums = saved["sums"].clone()
        self.orders.discarded.append([cut, self.cuts - 1])

    def state(self) -> State:
        return {
            "sums": self._sums,
            "events": self._events,
            "cuts": self.cuts,
            "chain": self._chain,
            **nest("orders", self.orders.state()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._sums = state["sums"].clone()
        self.orders.restore(unnest("orders", state))
        self._events, self.cuts, self._chain = state["events"], state["cuts"], state["chain"]

    def state_digest(self) -> str:
        return digest(self.state())

    def quality(self) -> Mapping[str, Mapping[str, object]]:
        return {}

    def summary(self) -> dict[str, Any]:
        return {"events_consumed": self._events, "state_digest": self.state_digest()}


class AtOnce:
    """Runs the work of a background writer on the spot, so that a test may die in the middle of it."""

    def __init__(self, work: Callable[[], None]) -> None:
        work()

    def join(self, timeout: float | None = None) -> None: ...

    def is_alive(self) -> bool:
        return False
