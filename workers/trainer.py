"""The trainer: start, then cut, step, commit, now and then a checkpoint, until told to stop.

A cut is visible as a whole or not at all; a checkpoint is always of a committed cut. So the process may
die at any moment, and the next start goes on from the ledger.
"""

from __future__ import annotations

import gc
import logging
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from stream_mtl.checkpoint import CheckpointStore
from stream_mtl.checkpoint_fork import forks
from stream_mtl.checkpoint_pace import CheckpointPace
from stream_mtl.checkpoint_storage import place_of
from stream_mtl.checkpoint_writer import BackgroundWriter, Written
from stream_mtl.config import Config
from stream_mtl.cut import Cut, CutResult
from stream_mtl.deadletters import Breaker
from stream_mtl.errors import (
    BrokerUnavailable,
    ConfigError,
    Fenced,
    StorageError,
    StreamMtlError,
    TopicMissing,
)
from stream_mtl.failpoints import Failpoint
from stream_mtl.headroom import Headroom
from stream_mtl.kafka.publication import Committed
from stream_mtl.kafka.topics import input_topics
from stream_mtl.ledger import Durable, decode, encode_cut
from stream_mtl.manifest import Identity
from stream_mtl.rollback import begun
from workers.attempts import AttemptsFile
from workers.failpoint import POISON_VARIABLE, VARIABLE, armed, deadly
from workers.instance import Instance, InstanceLock
from workers.isolation import Isolation
from workers.known_config import remember
from workers.observer import CheckpointFacts, CutFacts, Observer
from workers.open_transactions import OpenTransactions
from workers.ports import Ports, Stopped, kafka_ports
from workers.rest import Rest
from workers.rollback import Aim, carry_out, challengers
from workers.startup import Ready, TrainerOptions, publication_of, start

_LOG = logging.getLogger(__name__)
_REFRESH_S = 3_000.0  # an idle job's offsets: at least hourly
_RETRY_S = 2.0
_HOUR_MS = 3_600_000
_GC_THRESHOLDS = (50_000, 20, 50)
_PATIENCE_S = 60.0  # with until_idle: a broker that is away longer ends the run
_RETURN_S = 60.0  # for which topics that were there may be missing
_LOOK_S = 30.0  # without a record, after which the broker is asked whether it is there
_CUT_OFF_S = 120.0  # without an answer, after which clients are made anew: with the secrets of then
_SHUTDOWN_S = 600.0  # of the last checkpoint; a grace period ends it earlier

Connect = Callable[[Config, str, Stopped, Failpoint], Ports]


class StopFlag(Protocol):
    """`threading.Event`, or `workers.stop.Stop`."""

    def is_set(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...


def run_trainer(
    config: Config,
    options: TrainerOptions,
    stop: StopFlag,
    observer: Observer,
    connect: Connect = kafka_ports,
) -> dict[str, Any]:
    """Run until `stop`, or with `until_idle` to the end of the input; returns the summary object.

    Raises what `stream_mtl.errors` says; the exit code is the error's. A broker that is away is waited
    for; with `until_idle` for a minute. One that is only just back may not know its topics for a while.
    """
    folder = Path(config.state)
    failpoint = armed(os.environ.get(VARIABLE, ""))
    with InstanceLock(folder) as instance:
        store = CheckpointStore(
            place_of(config), config.checkpoint.keep, config.checkpoint.keep_hours, failpoint
        )
        began: float | None = None  # of the waiting
        known, told = False, ""

        def stopping() -> bool:
            """Asked wherever a broker is waited for: that is no main loop that hangs."""
            observer.tick()
            return stop.is_set()

        while True:
            ports = _armed(connect(config, instance.incarnation, stopping, failpoint))
            began = ports.elapsed() if began is None else began
            trainer = Trainer(config, options, stop, observer, ports, instance, store)
            try:
                return trainer.run()
            except (BrokerUnavailable, TopicMissing) as error:
                if trainer.ran:
                    # What a flag allowed once is done; the next outage must not do it again.
                    options, known, began = options.followed(), True, ports.elapsed()
                waited_s = ports.elapsed() - began
                gone = isinstance(error, TopicMissing) and not (known and waited_s < _RETURN_S)
                impatient = options.until_idle and waited_s > _PATIENCE_S
                if gone or impatient or stop.is_set():
                    raise
                if str(error) != told:
                    told = str(error)
                    _LOG.warning("%s; trying again", told)
                trainer.leave()
            except Fenced:
                observer.trouble("fenced")
                raise
            finally:
                ports.source.close()
                ports.sink.close()
            stop.wait(_RETRY_S)


def _armed(ports: Ports) -> Ports:
    poison, build = os.environ.get(POISON_VARIABLE, "").encode(), ports.build
    return replace(ports, build=lambda lineage: deadly(build(lineage), poison))


class Trainer:
    """One run, from a start to its end. All but the writing of checkpoints, and a part of a step, is on one thread."""

    def __init__(
        self,
        config: Config,
        options: TrainerOptions,
        stop: StopFlag,
        observer: Observer,
        ports: Ports,
        instance: Instance,
        store: CheckpointStore,
    ) -> None:
        self._config, self._options, self._stop = config, options, stop
        self._observer, self._ports, self._instance, self._store = observer, ports, instance, store
        fork = forks(config.checkpoint.copying, ports.environment.get("device", ""))
        self._writer = BackgroundWriter(store, ports.failpoint, ports.spawn, fork)
        self._pace = CheckpointPace(config.checkpoint)
        self._breaker = Breaker(config.dlq)
        self._rest = Rest(config.dlq.breaker_rest_s, config.dlq.breaker_reopen == "probe")
        self._isolation = Isolation(
            AttemptsFile(Path(config.state)),
            ports.source,
            lambda records: observer.trouble("crash_suspects", records=records),
        )
        self._open_transactions = OpenTransactions(observer, input_topics(config))
        self._gaps: Counter[str] = Counter()
        self._began = ports.elapsed()
        self._events = 0
        self._first_score: float | None = None
        self._prune_due = False
        self._held = False
        self._heard_at = self._answered_at = self._began
        self.ran = False  # was at work: topics were there, the state was restored

    def leave(self) -> None:
        """Before another one takes over in this process: the checkpoint under way is nobody else's to sweep away."""
        deadline = self._ports.elapsed() + _SHUTDOWN_S
        self._observer.tick()
        while not self._writer.wait(1.0) and self._ports.elapsed() < deadline:
            self._observer.tick()

    def run(self) -> dict[str, Any]:
        try:
            summary = self._run()
        except StreamMtlError:
            self._isolation.leave()  # an end with a reason; any other one may be a record's doing
            raise
        self._isolation.leave()
        return summary

    def _run(self) -> dict[str, Any]:
        ready = start(
            self._config, self._options, self._ports, self._instance, self._store, self._observer
        )
        self._take_up(ready)
        partitions = ",".join(f"{topic}-{number}" for topic, number in self._ports.source.positions)
        self._observer.phase("running", partitions=partitions)
        self.ran = True
        self._heard()
        # State is many small objects that live long; walking through them again and again finds no garbage.
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        running = self._ports.elapsed()
        try:
            self._loop()
        finally:
            gc.unfreeze()  # else native libraries report what they still hold as leaked when the process ends
        seconds = self._ports.elapsed() - running
        self._observer.phase("draining")
        self._last_checkpoint()
        return self._finish(seconds)

    def _take_up(self, ready: Ready) -> None:
        self._fold, self._context, self._cluster = ready.fold, ready.context, ready.cluster
        self._last, self._durable = ready.last, ready.durable
        self._saved_hash = ready.saved_hash  # of the record whose state the writer was given last
        remember(Path(self._config.state), self._config)
        self._committed_at = self._looked_at = self._ports.elapsed()
        self._pace.began(self._committed_at, self._behind())
        self._headroom = Headroom(self._ports.retentions())
        if ready.checkpoint_due:
            self._last_checkpoint()
        self._isolation.arrive()

    # ---- the loop

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._observer.tick()
            self._prove_after_standstill()
            self._note_written()
            if (
                self._options.until_idle
                and not self._fold.orders.paused
                and self._ports.source.at_end
            ):
                self._open_transactions.leave(self._ports.source.unstable(fresh=True))
                return
            resting = self._breaker.open and not self._rest.over(self._ports.elapsed())
            if resting or self._fold.orders.paused:
                self._hold()
                continue
            self._tell_of_holding(False)
            self._ports.failpoint("cut.freezing")
            cut = self._next_cut()
            self._open_transactions.look(self._ports.source.unstable(), self._ports.elapsed())
            if cut is None:
                self._refresh()
                self._look()
                continue
            self._heard()
            self._ports.failpoint("cut.frozen")
            self._judge(cut, self._fold_and_commit(cut, tried=self._isolation.active))
            self._maybe_checkpoint()

    @property
    def _number(self) -> int:
        """Of the next cut."""
        return 0 if self._last is None else self._last.cut + 1

    def _next_cut(self) -> Cut | None:
        if self._isolation.active:
            return self._isolation.next_cut(self._number, self._stop.is_set)
        at_most = self._breaker.probe_records if self._breaker.open else None
        return self._ports.source.next_cut(self._number, self._stop.is_set, at_most)

    def _fold_and_commit(self, cut: Cut, tried: bool = False) -> CutResult:
        """The one order that is right: fold, commit, and only then anything that relies on it.

        `tried`: the cut comes from the search for a record that kills.
        """
        began = self._ports.elapsed()
        with self._ports.source.heartbeat():
            self._ports.failpoint("step.starting")
            cut = Aim(self._config, self._store, self._cluster).at(cut, self._fold)
            result = self._fold.step(cut)
            self._ports.failpoint("step.done")
            if tried:
                self._isolation.folded()
            seconds = self._ports.elapsed() - began
            previous = self._last.hash if self._last else ""
            raw = encode_cut(self._context, previous, cut, result, self._durable)
            committed = self._ports.sink.commit(
                publication_of(self._config, cut, result, raw, self._context.lineage)
            )
        self._last = decode(raw, committed.ledger_offset)
        self._committed_at = self._looked_at = self._ports.elapsed()
        if tried:
            self._isolation.committed()
        self._pace.folded(seconds)
        self._headroom.folded(cut)
        self._tell(cut, result, seconds, committed)
        self._follow(result)
        self._prune()
        return result

    def _follow(self, result: CutResult) -> None:
        """What commands ask of the worker itself. Before anything is pruned: a rollback needs its checkpoint."""
        resumed = any(
            d["kind"] == "resume" and d["done"] and "repeated" not in d for d in result.decisions
        )
        if resumed and self._breaker.open:
            self._breaker.close()
            self._observer.trouble("breaker", open=0)
        if any(d["kind"] == "erase_user" and d["done"] for d in result.decisions):
            self._pace.hurry()  # the sooner a state without the user is durable, the sooner the others may go
        decision = begun(result.decisions)
        if decision is None:
            return
        assert self._last is not None
        with self._ports.source.heartbeat():
            self._context, self._last = carry_out(
                self._config,
                self._ports,
                self._store,
                self._fold,
                self._context,
                self._last,
                decision,
            )
            self._durable = None
            self._last_checkpoint()

    def _prove_after_standstill(self) -> None:
        """A process that was frozen may have lost its job without knowing it, and an idle one would never learn:
        the broker is asked at once. Raises Fenced.
        """
        now = self._ports.elapsed()
        stood_still_s, self._looked_at = now - self._looked_at, now
        if self._last is None or self._ports.sink.delivery != "exactly_once":
            return
        if stood_still_s > self._config.kafka.transaction_timeout_ms / 1_000:
            self._ports.sink.refresh(self._last.cut, self._ports.source.positions)

    def _refresh(self) -> None:
        """Committed offsets expire, so an idle job commits them again now and then."""
        if self._last is None or self._ports.elapsed() - self._committed_at < _REFRESH_S:
            return
        self._ports.sink.refresh(self._last.cut, self._ports.source.positions)
        self._committed_at = self._ports.elapsed()
        self._prune_due = True
        self._prune()

    def _look(self) -> None:
        """Nothing comes: is there nothing, or nobody to tell? A client that is cut off waits in silence.

        Raises BrokerUnavailable once nobody has answered for long.
        """
        now = self._ports.elapsed()
        if now - self._heard_at < _LOOK_S:
            return
        try:
            self._ports.source.prove()
            self._answered_at = now
        except BrokerUnavailable as error:
            if now - self._answered_at > _CUT_OFF_S:
                raise
            _LOG.warning("nothing comes: %s", error)
            self._looked_at = self._ports.elapsed()  # it was the broker that took so long
        self._observer.trouble("broker", away=int(self._answered_at != now))
        self._heard_at = self._ports.elapsed()

    def _heard(self) -> None:
        """A record came, or may from now on."""
        self._heard_at = self._answered_at = self._ports.elapsed()

    def _hold(self) -> None:
        """Paused, or the breaker is open: alive, not ready, reading commands alone."""
        self._tell_of_holding(True)
        cut = self._ports.source.next_commands(self._number, self._stop.is_set)
        if cut is not None:
            self._heard()
            self._ports.failpoint("cut.frozen")
            self._fold_and_commit(cut)
            self._maybe_checkpoint()
        elif self._options.until_idle and self._ports.source.commands_at_end:
            raise ConfigError(self._why_held())
        else:
            self._refresh()
            self._look()

    def _tell_of_holding(self, holding: bool) -> None:
        if holding or self._held:
            self._observer.holding(self._fold.orders.paused, self._ports.source.lag())
        self._held = holding

    def _why_held(self) -> str:
        if self._fold.orders.paused:
            return (
                "a command paused reading, so the end of the input is never reached; `stream-mtl control resume`"
                " reads on"
            )
        return (
            f"more than {self._config.dlq.breaker_share:.0%} of the last {self._config.dlq.breaker_window} "
            "records were refused: a broken producer. `dlq ls` names the reasons; mend it, or raise "
            "dlq.breaker_share"
        )

    def _tell(self, cut: Cut, result: CutResult, seconds: float, committed: Committed) -> None:
        """Everything an observer wants to know of a committed cut."""
        self._events += len(cut.records)
        if self._first_score is None and result.outputs:
            self._first_score = self._ports.elapsed() - self._began
        facts = CutFacts(
            step_seconds=seconds,
            commit_seconds=committed.seconds,
            open_seconds=committed.open_seconds,
            records=Counter(record.topic for record in cut.records),
            lag=self._ports.source.lag(),
            watermark_ms=self._fold.watermark_ms,
            reports=self._fold.reports,
            quality=self._fold.quality,
        )
        self._observer.cut(result, facts)
        for _ in range(committed.aborted):
            self._observer.trouble("commit_aborted")
        for _ in range(committed.indefinite):
            self._observer.trouble("commit_indefinite")
        for reason in committed.recreations:
            self._observer.trouble("producer_recreated", reason=reason)
        gaps = Counter(self._ports.source.gap_records)
        for topic, records in (gaps - self._gaps).items():
            self._observer.trouble("gap", topic=topic, records=records)
        self._gaps = gaps

    def _judge(self, cut: Cut, result: CutResult) -> None:
        """The breaker sees the cut: it may open, or close after a good probe."""
        was_open, now = self._breaker.open, self._ports.elapsed()
        rejects = sum(reject.stage != "learner" for reject in result.rejects)
        judge = self._breaker.probe if was_open else self._breaker.feed
        still_open = judge(len(cut.records), rejects)
        if not (was_open or still_open):
            return
        if not still_open:
            _LOG.warning("breaker closed: a probe of %d records was good", len(cut.records))
        else:
            rest_s = self._rest.again(now) if was_open else self._rest.begin(now)
            by_itself = self._config.dlq.breaker_reopen == "probe"
            _LOG.warning(
                "breaker open, reading stops: %s; %s",
                f"{rejects} of the newest {len(cut.records)} records were refused",
                f"the next probe is in {rest_s:.0f} s" if by_itself else "it waits for `resume`",
            )
        self._observer.trouble("breaker", open=int(still_open))

    # ---- checkpoints

    def _behind(self) -> bool:
        """Whether the newest checkpoint is older than the state."""
        return self._last is not None and self._saved_hash != self._last.hash

    def _maybe_checkpoint(self) -> None:
        if self._pace.due(self._ports.elapsed(), self._writer.busy):
            self._checkpoint()

    def _checkpoint(self) -> None:
        """Hand the committed state to the writer; still busy means this one is left out."""
        assert self._last is not None
        self._pace.began(self._ports.elapsed())
        identity = Identity.after(self._last, self._context, self._cluster)
        began = self._writer.start(
            self._fold.state, identity, self._instance.incarnation, self._ports.clock()
        )
        if began:
            self._saved_hash = self._last.hash
        else:
            self._observer.checkpoint(CheckpointFacts(self._last.cut, failure="busy"))

    def _note_written(self) -> None:
        self._observer.trouble("headroom", seconds=self._headroom.seconds(self._ports.clock()))
        for written in self._writer.take():
            self._observer.checkpoint(_facts(written))
            free = self._store.free_bytes()
            if free is not None:
                self._observer.trouble("disk", free=free)
            if written.saved is not None:
                name, digest = written.saved.info.name, written.saved.manifest.state_digest
                self._durable = Durable(name, written.cut, digest)
                self._headroom.saved(written.cut)
                self._prune_due = True
            elif self._last is not None and self._saved_hash:
                self._saved_hash = ""  # the state is not durable: a shutdown tries again

    def _prune(self) -> None:
        """Only here, after an own commit that is later than the checkpoint: a fenced worker has none."""
        if not self._prune_due or self._last is None:
            return
        self._prune_due = False
        try:
            now = self._ports.clock()
            erased = self._fold.orders.erasures.due(
                now - self._config.checkpoint.erased_hours * _HOUR_MS
            )
            for store in (self._store, challengers(self._config)):
                if store is not None:
                    store.prune_erased(erased, self._last.cut)
            self._store.prune(self._last.cut, now)
        except StorageError:
            self._observer.checkpoint(CheckpointFacts(self._last.cut, failure="write"))

    def _last_checkpoint(self) -> None:
        """Wait for the write under way, then save the last cut unless that was it. Raises StorageError."""
        self._writer.wait(_SHUTDOWN_S)
        self._note_written()
        if self._last is None or self._saved_hash == self._last.hash:
            return
        self._checkpoint()
        self._writer.wait(_SHUTDOWN_S)
        self._note_written()
        if self._saved_hash != self._last.hash:
            raise self._writer.last_error or StorageError(
                f"the checkpoint of cut {self._last.cut} was not written within {_SHUTDOWN_S:.0f} s"
            )

    # ---- the end

    def _finish(self, seconds: float) -> dict[str, Any]:
        summary: dict[str, Any] = {
            "delivery": self._ports.sink.delivery,
            **self._fold.summary(),
            "first_score_seconds": self._first_score,
            "events_per_second": self._events / seconds if seconds > 0 else 0.0,
            "lineage": self._context.lineage,
            "last_cut": -1 if self._last is None else self._last.cut,
        }
        self._observer.summary(summary)
        self._observer.phase("stopped", reason="stopped" if self._stop.is_set() else "idle")
        return summary


def _facts(written: Written) -> CheckpointFacts:
    if written.saved is None:
        return CheckpointFacts(written.cut, failure=written.reason)
    return CheckpointFacts(
        cut=written.cut,
        name=written.saved.info.name,
        size_bytes=written.saved.manifest.size,
        snapshot_seconds=written.snapshot_seconds,
        write_seconds=written.saved.write_seconds,
        fsync_seconds=written.saved.fsync_seconds,
    )
