"""Whose the job is, by what stands at the broker: asked when a producer must be replaced in the middle of a run.

Starting a producer fences whoever has one. A worker that stood still may hear of a time-out before it hears that
it was fenced itself; if it started another producer then, it would end its successor. Two signs tell it: whose
note the committed offsets bear, and where the ledger ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from stream_mtl.config import Config
from stream_mtl.errors import BrokerUnavailable
from stream_mtl.kafka.ledger_log import committed_offsets, last_record
from stream_mtl.kafka.publication import noted_incarnation
from stream_mtl.kafka.unstable import require_visible

_LOOK_S = 1.0  # of one request, so that `stop` is heard between them; twice as long after every one in vain
_LONGEST_LOOK_S = 8.0
_TOLD_S = (
    5.0  # after which it is said what is waited for: a broker that has just started takes a moment
)
T = TypeVar("T")
_LOG = logging.getLogger(__name__)


class Overtaken(Exception):
    """The ledger ends with a record of somebody else."""


class Tenure:
    """From the moment when a worker became the only one. `stop` ends the wait for a broker that is away."""

    def __init__(
        self, config: Config, incarnation: str, stop: Callable[[], bool], patience_s: float
    ) -> None:
        self._config, self._incarnation = config, incarnation
        self._stop, self._patience_s = stop, patience_s
        self._predecessors: frozenset[str] = frozenset()
        self._look_s = _LOOK_S
        self._end: int | None = None  # offset of the ledger's last record, as we left it

    def begin(self) -> None:
        """To be called when all others are fenced. Raises BrokerUnavailable after the patience or on `stop`."""
        self._predecessors = self._patiently(self._holders)
        self._patiently(self._visible)
        last = self._patiently(self._last)
        self._end = None if last is None else last[0]

    def committed(self, offset: int) -> None:
        """Our ledger record stands there."""
        self._end = offset

    def over(self) -> bool:
        """Has another committed or claimed the job since it was ours? Raises BrokerUnavailable at once."""
        return bool(self._holders() - self._predecessors - {self._incarnation})

    def landed(self, sent: bytes) -> int | None:
        """The offset of that record when it is the ledger's last one; None when it never came.

        Raises Overtaken where the last one is neither that nor the one before: the cut must not be sent again.
        BrokerUnavailable after the patience or on `stop`.
        """
        self._patiently(self._visible)
        last = self._patiently(self._last)
        if last is None or last[0] == self._end:
            return None
        if last[1] != sent:
            raise Overtaken
        return last[0]

    def _holders(self) -> frozenset[str]:
        """The incarnations in the notes of the committed offsets."""
        try:
            notes = committed_offsets(self._config, self._look_s, overlook_open=True).values()
        except BrokerUnavailable:
            self._look_s = min(2 * self._look_s, _LONGEST_LOOK_S)
            raise
        found = (noted_incarnation(note) for _, note in notes)
        return frozenset(one for one in found if one is not None)

    def _visible(self) -> None:
        """What is committed is what can be read: nothing of ours is open now."""
        require_visible(self._config)

    def _last(self) -> tuple[int, bytes] | None:
        """The ledger's newest record. It does not end before ours: a broker that says so is not up to date."""
        last = last_record(self._config)
        if last is not None and self._end is not None and last[0] < self._end:
            raise BrokerUnavailable(
                f"the ledger {self._config.topics.ledger} ends at {last[0]}, our record is at {self._end}"
            )
        return last

    def _patiently(self, look: Callable[[], T]) -> T:
        began, told = time.monotonic(), ""
        while True:
            try:
                return look()
            except BrokerUnavailable as error:
                waited_s = time.monotonic() - began
                if self._stop() or waited_s > self._patience_s:
                    raise
                if waited_s > _TOLD_S and str(error) != told:
                    told = str(error)
                    _LOG.warning("%s; trying again", told)
            time.sleep(0.1)
