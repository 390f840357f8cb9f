"""A small file in the state folder: did the last process say goodbye, and which cut was it trying?

Written once at a start and once at an orderly end, so a worker that does not die pays nothing. Only after
a death without goodbye the next cuts are written down before they are folded.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stream_mtl.ledger import Partition, Positions
from workers.durable_file import replace_text

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trial:
    """A cut that is tried after a death: offsets [starts, stops) of every owned partition."""

    starts: Positions
    stops: Positions
    suspects: Positions  # up to here lies what is under suspicion
    tries: int  # that were begun and not seen to go through
    patience: int  # deaths after which it is halved


@dataclass(frozen=True, slots=True)
class Attempts:
    """What the file says. No file says the same as an orderly end."""

    left: bool = True
    trial: Trial | None = None


class AttemptsFile:
    """`attempts.json`, replaced whole and fsynced. A disk that takes nothing costs the isolation, not the worker."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "attempts.json"

    def read(self) -> Attempts:
        """What was written last; an orderly end where nothing can be read."""
        try:
            raw = json.loads(self._path.read_text(encoding="utf-8"))
            found = raw["trial"]
            trial = None if found is None else _trial(found)
            return Attempts(bool(raw["left"]), trial)
        except FileNotFoundError:
            return Attempts()
        except (OSError, ValueError, KeyError, TypeError) as error:
            _LOG.warning("%s is not readable (%s): earlier deaths are forgotten", self._path, error)
            return Attempts()

    def write(self, attempts: Attempts) -> None:
        try:
            replace_text(self._path, json.dumps(_json(attempts)))
        except OSError as error:
            _LOG.warning("%s cannot be written: %s", self._path, error.strerror)


def remaining(trial: Trial) -> Trial | None:
    """What is still under suspicion when this trial has gone through; None: nothing."""
    if trial.stops == trial.suspects:
        return None
    return replace(trial, starts=trial.stops, stops=trial.suspects, tries=0, patience=0)


def _json(attempts: Attempts) -> dict[str, Any]:
    trial = attempts.trial
    if trial is None:
        return {"left": attempts.left, "trial": None}
    places = [
        [*place, trial.starts[place], trial.stops[place], trial.suspects[place]]
        for place in sorted(trial.starts)
    ]
    facts = {"tries": trial.tries, "patience": trial.patience, "places": places}
    return {"left": attempts.left, "trial": facts}


def _trial(raw: dict[str, Any]) -> Trial:
    starts: Positions = {}
    stops: Positions = {}
    suspects: Positions = {}
    for topic, partition, start, stop, suspect in raw["places"]:
        place: Partition = (str(topic), int(partition))
        starts[place], stops[place], suspects[place] = int(start), int(stop), int(suspect)
    return Trial(starts, stops, suspects, int(raw["tries"]), int(raw["patience"]))
