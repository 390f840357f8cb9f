"""R3: the request that ends a transaction (EndTxn) is held on its way and arrives in the middle of a later one.

The client sends it again by itself after a time-out or a lost connection, so a first copy may still be under way
when the commit has long succeeded. Arriving in a later transaction of the same producer and epoch it ends that
one half written. Three ways to get there:

- shown: every copy is held until the application sees an error; the copies arrive in the next attempt
- time-out: one copy is held past `socket.timeout.ms`, the client's own retry succeeds, nobody sees anything
- cut: one copy is held and its connection is reset, the client's retry succeeds at once

The sink runs alone, with made-up cuts, so that many holds are cheap. Half of the arrivals are followed by a crash.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.report import note
from benchmarks.soak.checker import Violation, judge_sink, summary
from benchmarks.soak.history import Call, Folded, History, LedgerCut
from benchmarks.soak.look import value_hash
from benchmarks.soak.naive import ForgetfulSink, StubbornSink, TrustingSink
from benchmarks.soak.proxy import END_TXN, Proxy
from benchmarks.soak.row import Ground, Row, fails_p
from schemas.scores import CUT_HEADER
from stream_mtl import Config
from stream_mtl.cut import Cut, Output
from stream_mtl.kafka import sink as sinks
from stream_mtl.kafka.calls import Outcome
from stream_mtl.kafka.ledger_log import last_record, read_ledger
from stream_mtl.kafka.publication import Publication, Wire
from stream_mtl.kafka.reading import read_topic
from stream_mtl.kafka.receipts import Receipts
from stream_mtl.kafka.sink import TransactionalSink
from stream_mtl.kafka.topics import ensure_topics

Way = Literal["shown", "time-out", "cut"]
WAYS: tuple[Way, ...] = ("shown", "time-out", "cut")
_SCORES = 24
_LEDGER = b"ledger"  # how the ledger records begin here
_START_MS = 1_704_067_200_000


class Crash(Exception):
    """Stands for the end of the process."""


@dataclass
class Trap:
    """Holds the commit of one cut, lets it go in the middle of the next transaction."""

    proxy: Proxy
    way: Way
    crash: bool = False
    sent: int = 0  # records of the transaction under way
    sprung: bool = False

    def set(self) -> None:
        self.sprung = False
        shown = self.way == "shown"
        self.proxy.hold(END_TXN, 1_000 if shown else 1, "cut" if self.way == "cut" else "wait")

    def error_seen(self) -> None:
        """From here on the application acts upon it."""
        self.proxy.pass_on()

    def middle(self, producer: Any) -> None:
        """Half of the scores are at the broker: now the late request arrives."""
        if self.sprung or not self.proxy.waiting():
            return
        self.proxy.pass_on()
        with contextlib.suppress(Exception):
            producer.flush(3.0)
        self.proxy.release()
        self.sprung = True
        time.sleep(0.1)
        if self.crash:
            raise Crash


@dataclass
class Bench:
    """One app, one kind of sink, and what it was told."""

    server: str
    proxy: Proxy
    kind: type[TransactionalSink]
    timeout_ms: int
    socket_ms: int = 0
    calls: list[Call] = field(default_factory=list)
    torn: int = 0

    def __post_init__(self) -> None:
        self.app = f"endtxn{uuid.uuid4().hex[:8]}"
        self.config = self._config(self.server)
        ensure_topics(self.config, retention_ms=-1)

    def _config(self, bootstrap: str) -> Config:
        names = ("items", "control", "acks", "scores", "dlq", "ledger")
        topics = {"events": [f"{self.app}.events"], **{n: f"{self.app}.{n}" for n in names}}
        producer = {"socket.timeout.ms": self.socket_ms} if self.socket_ms else {}
        return Config.model_validate(
            {
                "app": self.app,
                "topics": {**topics, "partitions": 2},
                "kafka": {
                    "bootstrap": bootstrap,
                    "transaction_timeout_ms": self.timeout_ms,
                    "producer": producer,
                },
            }
        )

    def open(self, trap: Trap) -> TransactionalSink:
        sink = self.kind(self._config(self.proxy.bootstrap), patience_s=60.0, record=self._record)
        for name in ("_replace", "_begin_again"):
            act = getattr(sink, name, None)
            if act is not None:
                object.__setattr__(sink, name, _first(trap.error_seen, act))
        sink.open()
        return sink

    def _record(self, call: str, outcome: Outcome, cut: int) -> None:
        self.calls.append(Call(call, outcome.value, cut, "", time.time()))

    def next_number(self) -> int:
        last = last_record(self.config)
        return int(last[1].split()[1]) + 1 if last else 0

    def history(self) -> History:
        ledger = [int(raw.split()[1]) for _, raw in read_ledger(self.config)]
        history = History(calls=self.calls)
        history.cuts = [
            LedgerCut(number, str(number), str(number - 1) if number else "", "", ())
            for number in ledger
        ]
        for record in read_topic(self.config, self.config.topics.scores):
            cut = int(dict(record.headers)[CUT_HEADER] or b"-1")
            history.scores[cut, (record.key or b"").decode(), value_hash(record.value)] += 1
        history.folded = {number: Folded("", _due(number)) for number in ledger}
        return history


def _first(before: Any, act: Any) -> Any:
    def both(*arguments: Any) -> Any:
        before()
        return act(*arguments)

    return both


def publication(number: int, config: Config) -> Publication:
    """A cut of scores over both partitions, with a recognisable ledger record."""
    outputs = [Output(f"user:{i}", b"%d/%d" % (number, i), _START_MS) for i in range(_SCORES)]
    positions = {(config.topics.events[0], 0): 0}
    return Publication(
        Cut(number, (), (), _START_MS), outputs, (), _LEDGER + b" %d" % number, positions
    )


def _due(number: int) -> Counter[tuple[str, str]]:
    return Counter((f"user:{i}", value_hash(b"%d/%d" % (number, i))) for i in range(_SCORES))


@contextlib.contextmanager
def springing(trap: Trap) -> Iterator[None]:
    """The trap is told when half of a transaction's scores have been given to the client."""
    send = sinks.send

    def counted(producer: Any, wire: Wire, receipts: Receipts) -> None:
        send(producer, wire, receipts)
        ends = (wire.value or b"").startswith(_LEDGER)
        trap.sent = 0 if ends else trap.sent + 1
        if trap.sent == _SCORES // 2:
            trap.middle(producer)

    sinks.send = counted
    try:
        yield
    finally:
        sinks.send = send


def hold(bench: Bench, way: Way, count: int) -> int:
    """So many held commits, each arriving in a later transaction; how many really were held and arrived."""
    trap = Trap(bench.proxy, way)
    arrived = 0
    with springing(trap):
        sink = bench.open(trap)
        for turn in range(3 * count):  # on a busy machine a time-out may come before the commit
            if arrived == count:
                break
            trap.crash = turn % 2 == 1
            before = bench.proxy.released
            trap.set()
            for _ in range(3):  # the one that is held, the one it arrives in, a quiet one
                try:
                    trap.sent = 0
                    sink.commit(publication(bench.next_number(), bench.config))
                except Crash:
                    trap.crash = False
                    bench.torn += _torn(bench)
                    sink.close()
                    sink = bench.open(trap)
            arrived += bench.proxy.released > before
            bench.proxy.pass_on()
        sink.close()
    return arrived


def _torn(bench: Bench) -> int:
    """Is something of a cut visible without its ledger record now?"""
    history = bench.history()
    there = {cut for cut, _, _ in history.scores}
    return len(there - {cut.number for cut in history.cuts})


def play(
    ground: Ground, server: str, proxy: Proxy, kind: type[TransactionalSink], way: Way, count: int
) -> tuple[int, int, tuple[Violation, ...]]:
    """Holds that arrived, cuts seen torn, what the checker finds."""
    timeout_ms, socket_ms = {"shown": (1_500, 0), "time-out": (10_000, 1_000), "cut": (10_000, 0)}[
        way
    ]
    bench = Bench(server, proxy, kind, timeout_ms, socket_ms)
    arrived = hold(bench, way, count)
    return arrived, bench.torn, judge_sink(bench.history())


def run(ground: Ground) -> Iterator[Row]:
    with Proxy(0) as proxy, ground.broker("r3", advertise=proxy.port) as server:
        proxy.target = server.behind
        total, torn, wrong = 0, 0, ()
        for way in WAYS:
            began = time.monotonic()
            arrived, seen, violations = play(
                ground, server.bootstrap, proxy, TransactionalSink, way, ground.dose(2, 17)
            )
            total, torn, wrong = total + arrived, torn + seen, (*wrong, *violations)
            note(f"  R3 {way}: {arrived} held and arrived, {time.monotonic() - began:.0f} s")
        measured = f"{torn} torn, {summary(wrong)}"
        yield Row(
            "R3", f"{total} held EndTxn: 0 torn, lost, doubled", measured, not (torn or wrong)
        )
        yield Row("R3", "holds that arrived later", f"{total} of {3 * ground.dose(2, 17)}", None)
        for kind, way, what in (
            (TrustingSink, "cut", "no tripwire: keeps a producer that looks well"),
            (StubbornSink, "shown", "keeps its producer after an unclear error"),
        ):
            arrived, torn, violations = play(ground, server.bootstrap, proxy, kind, way, 4)
            row = fails_p(
                "R3",
                what,
                violations,
                {"score doubled", "score without ledger record", "cut twice", "score missing"},
            )
            yield Row(row.id, row.must_hold, f"{torn} torn, {row.measured}", row.holds or torn > 0)
        yield _answer_lost(ground, server.bootstrap, proxy)


def _answer_lost(ground: Ground, server: str, proxy: Proxy) -> Row:
    """The commit landed and every answer is lost: who does not read the ledger sends the cut again."""
    bench = Bench(server, proxy, ForgetfulSink, 1_500)
    trap = Trap(proxy, "shown")
    sink = bench.open(trap)
    for _ in range(3):
        proxy.drop_answers(END_TXN, 100)
        object.__setattr__(
            sink,
            "_replace",
            _first(lambda: proxy.drop_answers(END_TXN, 0), type(sink)._replace.__get__(sink)),
        )
        sink.commit(publication(bench.next_number(), bench.config))
    sink.close()
    violations = judge_sink(bench.history())
    return fails_p("R3", "does not read the ledger", violations, {"cut twice", "score doubled"})
