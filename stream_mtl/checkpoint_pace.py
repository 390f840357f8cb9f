"""When the next checkpoint is due: by time, and by what a restart would have to fold again."""

from __future__ import annotations

from stream_mtl.config import Checkpoint


class CheckpointPace:
    """Told of every cut that was folded and of every checkpoint that was begun. Seconds are monotonic.

    Time bounds the age of a checkpoint; the work since it bounds how long a restart takes, which in a
    backlog is reached long before the time is.
    """

    def __init__(self, settings: Checkpoint) -> None:
        self._settings = settings
        self._at = 0.0
        self._fold_s, self._cuts = 0.0, 0
        self._behind = False

    def began(self, now_s: float, behind: bool = False) -> None:
        """A checkpoint holds the present state, or soon will. `behind`: it does not yet, at a start that
        rolled forward; then one is due after the first cut, else each crash would make the next start
        longer."""
        self._at = now_s
        self._fold_s, self._cuts = 0.0, 0
        self._behind = behind

    def hurry(self) -> None:
        """One is due after this cut: what it forgot must not come back."""
        self._behind = True

    def folded(self, seconds: float) -> None:
        """One more cut, and what its step took."""
        self._fold_s += seconds
        self._cuts += 1

    def due(self, now_s: float, busy: bool) -> bool:
        """While a write is under way only time counts: what comes due then is skipped, and counted."""
        if now_s - self._at >= self._settings.interval_s:
            return True
        if busy or not self._cuts:
            return False
        return (
            self._behind
            or self._fold_s >= self._settings.max_fold_s
            or self._cuts >= self._settings.max_cuts
        )
