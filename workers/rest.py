"""How long an open breaker rests before the worker looks whether its producer is mended."""

from __future__ import annotations

LONGEST_S = 3_600.0


class Rest:
    """A rest that doubles with each bad look, up to an hour. Times are monotonic seconds."""

    def __init__(self, first_s: float, probes: bool) -> None:
        """Without `probes` it never ends by itself: a person says when."""
        self._first_s, self._probes = first_s, probes
        self._length_s = self._since = 0.0

    def begin(self, now: float) -> float:
        """The breaker has opened; how long the rest is."""
        return self._rest(now, self._first_s)

    def again(self, now: float) -> float:
        """It was looked at too early; how long the next rest is."""
        return self._rest(now, min(2 * self._length_s, LONGEST_S))

    def over(self, now: float) -> bool:
        return self._probes and now - self._since >= self._length_s

    def _rest(self, now: float, length_s: float) -> float:
        self._since, self._length_s = now, min(length_s, LONGEST_S)
        return self._length_s
