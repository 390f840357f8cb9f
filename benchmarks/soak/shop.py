"""A shop whose events come all the time, as its own thread writes them straight to the broker."""

from __future__ import annotations

import itertools
import threading
import time
from types import TracebackType

from stream_mtl import Config
from stream_mtl.errors import BrokerUnavailable, TopicMissing
from stream_mtl.kafka.ledger_log import last_record
from stream_mtl.kafka.produce import EventWriter
from stream_mtl.kafka.topics import ensure_topics
from stream_mtl.ledger import decode
from stream_mtl.simulator import simulate
from workers.simulate import to_topics

_BEAT_S = 0.05
_LOOK_S = 0.5


def fill(config: Config, events: int, seed: int, scenario: str = "dirty") -> None:
    """Write so many records of a scenario and wait until the broker has them."""
    ensure_topics(config, retention_ms=-1)
    writer = EventWriter(config)
    to_topics(simulate(scenario, events, seed), config, writer)
    writer.flush()


class Feeder:
    """`with Feeder(config, rate=200): ...` writes a scenario's records, at most `rate` a second, until it is left.

    A broker that is away is waited for: records queue in the client and none is given up. It writes no more than
    `backlog` records beyond what the ledger has: a run that is judged is folded twice.
    """

    def __init__(
        self,
        config: Config,
        rate: float,
        seed: int,
        scenario: str = "dirty",
        limit: int = 1_000_000,
        backlog: int = 400,
    ) -> None:
        self._config, self._rate, self._backlog = config, rate, backlog
        self._records = simulate(scenario, limit, seed)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self.error: BaseException | None = None

    def __enter__(self) -> Feeder:
        ensure_topics(self._config, retention_ms=-1)
        self._writer = EventWriter(self._config)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        if error is None:
            self._writer.flush()
            if self.error is not None:
                raise self.error

    @property
    def written(self) -> int:
        return self._writer.written

    def read(self) -> int:
        """How many records the ledger has; those of us, since offsets of these topics have no holes."""
        try:
            last = last_record(self._config)
        except (BrokerUnavailable, TopicMissing):
            return 0
        return 0 if last is None else sum(decode(last[1], last[0]).positions.values())

    def _run(self) -> None:
        looked, read = 0.0, 0
        try:
            while not self._done.wait(_BEAT_S):
                if self._writer.written - read >= self._backlog:
                    if time.monotonic() - looked > _LOOK_S:
                        looked, read = time.monotonic(), self.read()
                    continue
                batch = itertools.islice(self._records, max(1, int(self._rate * _BEAT_S)))
                to_topics(batch, self._config, self._writer)
        except BaseException as error:  # told when the feeder is left
            self.error = error
