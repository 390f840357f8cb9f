"""Checkpoints become durable while the fold goes on: in a forked process, or from a copy on a thread."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stream_mtl.checkpoint import CheckpointStore, Saved, SaveFailed
from stream_mtl.checkpoint_fork import fork_save
from stream_mtl.failpoints import Failpoint, unarmed
from stream_mtl.manifest import Identity
from stream_mtl.snapshot import snapshot
from stream_mtl.state import State

Save = Callable[[], Saved]


@dataclass(frozen=True, slots=True)
class Written:
    """How a write ended: durable, or the reason (a closed set of words) why not."""

    cut: int
    snapshot_seconds: float
    saved: Saved | None = None
    reason: str = ""
    message: str = ""


class Joinable(Protocol):
    def join(self, timeout: float | None = None) -> None: ...
    def is_alive(self) -> bool: ...


def thread(work: Callable[[], None]) -> Joinable:
    """How work is run beside the fold; a test may run it at once instead."""
    started = threading.Thread(target=work, name="checkpoint", daemon=True)
    started.start()
    return started


class BackgroundWriter:
    """At most one write at a time; a checkpoint that comes due meanwhile is skipped and counted.

    A failed write never reaches the fold: it is counted, kept in `last_error`, and the next one tries
    again under a new name. `take()` hands what has ended to the calling thread.
    """

    def __init__(
        self,
        store: CheckpointStore,
        failpoint: Failpoint = unarmed,
        spawn: Callable[[Callable[[], None]], Joinable] = thread,
        fork: bool = False,
    ) -> None:
        """`fork`: needs Linux, and state in the memory of the CPU."""
        self._store = store
        self._failpoint = failpoint
        self._spawn = spawn
        self._fork = fork and store.storage.beside
        self._work: Joinable | None = None
        self._ended: deque[Written] = deque()
        self.last_error: SaveFailed | None = None

    @property
    def busy(self) -> bool:
        return self._work is not None and self._work.is_alive()

    def start(
        self, state: Callable[[], State], identity: Identity, incarnation: str, now_ms: int
    ) -> bool:
        """Fix what `state` gives now and write it meanwhile; False while the last write is going on."""
        if self.busy:
            return False
        began = time.perf_counter()
        self._failpoint("checkpoint.cloning")
        save = self._fix(state, identity, incarnation, now_ms)
        self._failpoint("checkpoint.cloned")
        seconds = time.perf_counter() - began
        self._work = self._spawn(lambda: self._write(save, identity.cut, seconds))
        return True

    def take(self) -> list[Written]:
        """What has ended since the last call, oldest first."""
        ended = []
        while self._ended:
            ended.append(self._ended.popleft())
        return ended

    def wait(self, timeout_s: float) -> bool:
        """Until the write under way has ended; False when it has not within `timeout_s`."""
        if self._work is not None:
            self._work.join(timeout_s)
        return not self.busy

    def _fix(
        self, state: Callable[[], State], identity: Identity, incarnation: str, now_ms: int
    ) -> Save:
        """Where no process can be made (memory, a limit), a copy does."""
        if self._fork:
            try:
                forked = fork_save(self._store, state, identity, incarnation, now_ms)
                return lambda: forked.wait(self._failpoint)
            except OSError:
                pass
        copied = snapshot(state())
        return lambda: self._store.save(copied, identity, incarnation, now_ms)

    def _write(self, save: Save, cut: int, seconds: float) -> None:
        try:
            saved = save()
        except SaveFailed as error:
            self.last_error = error
        except Exception as error:  # a thread's error would be lost, and the writer with it
            self.last_error = SaveFailed("bug", repr(error))
        else:
            self._ended.append(Written(cut, seconds, saved))
            return
        reason, message = self.last_error.reason, str(self.last_error)
        self._ended.append(Written(cut, seconds, None, reason, message))
