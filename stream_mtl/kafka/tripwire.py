"""Notices what makes a transactional producer unsafe to use for another transaction.

librdkafka sends a commit again by itself after a time-out or a lost connection, and lacks the client side of
KIP-890: a late commit can then end a *later* transaction of the same producer. So after any such sign the
producer is replaced before the next transaction, although the last one succeeded.

The client tells its errors of the coordinator's connection to nobody: not to the error callback, and to the
statistics only at their next interval, when the next transaction may be over. Its log has them at once, before
the answer to the commit that was sent again; so the log is listened to.
"""

from __future__ import annotations

import json
from typing import Any

# Not `txretries`: a coordinator that still writes the last transaction's markers makes the client retry, which
# is harmless. A commit is sent again only after a time-out or a lost connection, and these are counted.
_SIGNS = ("req_timeouts", "disconnects")
STATISTICS_MS = 1_000
_LINES = (
    "FAIL ",
    "REQTMOUT ",
)  # facilities of librdkafka's log: connection lost, request timed out
_INFO = 6  # syslog's level of a lost connection


class Tripwire:
    """Callbacks for one producer; `reason` says why it must go, or is None."""

    def __init__(self) -> None:
        self._seen: int | None = (
            None  # sum of the signs when armed, or at the first statistics after
        )
        self.reason: str | None = None

    def settings(self) -> dict[str, Any]:
        return {
            "error_cb": self._on_error,
            "stats_cb": self._on_statistics,
            "statistics.interval.ms": STATISTICS_MS,
            "log.connection.close": True,  # by default too, but here correctness hangs on it
            "log_level": _INFO,
        }

    def hear(self, line: str) -> None:
        """One line of the client's log."""
        if line.startswith(_LINES):
            self.reason = self.reason or "disconnect"

    def arm(self) -> None:
        """Forget what happened before the producer was ready (brokers may have been away)."""
        self._seen = None
        self.reason = None

    def slow(self) -> None:
        """The last commit took suspiciously long."""
        self.reason = self.reason or "slow_commit"

    def _on_error(self, error: Any) -> None:
        self.reason = self.reason or "disconnect"

    def _on_statistics(self, text: str) -> None:
        brokers = json.loads(text).get("brokers", {}).values()
        total = sum(int(broker.get(sign, 0)) for broker in brokers for sign in _SIGNS)
        if self._seen is not None and total > self._seen:
            self.reason = self.reason or "disconnect"
        self._seen = total
