"""A checkpoint written by a forked process: the fold waits for the fork, not for a copy of its state.

The child's memory is the parent's at one moment between two cuts, so what it saves is of that one cut by
construction; the kernel copies a page only when the fold changes it. Lists of state are built, turned
into JSON, hashed and written under the child's own interpreter lock.

A child of a process with threads has locks that nobody will ever release. So it touches nothing that
has threads (the Kafka client, the pools of torch), computes on one thread, collects no garbage, lets go
of all descriptors and never returns; and a child that falls silent is killed and counted as a failure.
It ends with its parent. Failpoints that it passes are hit in the parent, which must be what dies.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

import torch

from stream_mtl.checkpoint import CheckpointInfo, CheckpointStore, Saved, SaveFailed
from stream_mtl.failpoints import Failpoint
from stream_mtl.manifest import Identity, Manifest
from stream_mtl.snapshot import view
from stream_mtl.state import State

SILENT_S = 300.0  # without a sign of life, also while a slow disk syncs
_NICE = 5  # the fold goes first
_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # opened before any fork


def forks(copying: str, device: str) -> bool:
    """Whether this machine writes checkpoints in a forked process; `copying` is the setting."""
    if copying == "auto":
        return sys.platform == "linux" and device == "cpu"
    return copying == "fork"


class Forked:
    """One write under way in another process."""

    def __init__(self, process: int, line: socket.socket) -> None:
        self._process, self._line = process, line

    def wait(self, failpoint: Failpoint) -> Saved:
        """What the child says in the end. Raises SaveFailed, also when it died or fell silent."""
        self._line.settimeout(SILENT_S)
        try:
            with self._line, self._line.makefile("r") as said:
                for line in said:
                    message = json.loads(line)
                    if "passed" in message:
                        failpoint(message["passed"])
                        self._line.sendall(b"+")
                    else:
                        return _result(message)
        except TimeoutError as error:
            raise SaveFailed(
                "stuck",
                f"the process that writes the checkpoint said nothing for {SILENT_S:.0f} s and was ended; "
                "is the disk alive? checkpoint.copying = clone writes without another process",
            ) from error
        except OSError as error:
            raise SaveFailed("bug", f"the writing process was lost: {error}") from error
        finally:
            status = self._end()
        raise SaveFailed("bug", f"the process that writes the checkpoint ended by {status}")

    def _end(self) -> str:
        """No process is left behind, whatever state it is in."""
        try:
            os.kill(self._process, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(self._process, 0)[1])
        except (ProcessLookupError, ChildProcessError):
            return "somebody else"
        return f"signal {-code}" if code < 0 else f"exit {code}"


def fork_save(
    store: CheckpointStore,
    state: Callable[[], State],
    identity: Identity,
    incarnation: str,
    now_ms: int,
) -> Forked:
    """Start a process that saves what `state` gives there. Raises OSError when there can be none."""
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    with warnings.catch_warnings():
        # newer Pythons warn of any fork beside threads; the docstring says what is done about it
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            process = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
    if process == 0:
        _child(
            parent, theirs, lambda: store.save(view(state()), identity, incarnation, now_ms), store
        )
    theirs.close()
    return Forked(process, ours)


def _child(
    parent: int, line: socket.socket, save: Callable[[], Saved], store: CheckpointStore
) -> NoReturn:
    try:
        gc.disable()
        _libc.prctl(_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # the parent waits for us while it stops
        _let_go(line.fileno())
        os.nice(_NICE)
        torch.set_num_threads(1)
        with line.makefile("w") as tell:
            store.storage.tell_failpoints_to(lambda name: _passed(line, tell, name))
            _say(tell, _outcome(save))
    finally:
        os._exit(0)


def _let_go(kept: int) -> None:
    """Locks, sockets and files are the parent's: closed here, they stay open there."""
    os.closerange(3, kept)
    os.closerange(kept + 1, max(map(int, os.listdir("/proc/self/fd"))) + 1)


def _passed(line: socket.socket, tell: IO[str], name: str) -> None:
    """Tell of a failpoint and wait until the parent has lived through it."""
    _say(tell, {"passed": name})
    if line.recv(1) != b"+":
        os._exit(1)


def _outcome(save: Callable[[], Saved]) -> dict[str, Any]:
    try:
        saved = save()
    except SaveFailed as error:
        return {"reason": error.reason, "error": str(error)}
    except Exception as error:
        return {"reason": "bug", "error": repr(error)}
    return {
        "name": saved.info.name,
        "path": str(saved.info.path),
        "manifest": saved.manifest.model_dump(mode="json"),
        "write_seconds": saved.write_seconds,
        "fsync_seconds": saved.fsync_seconds,
    }


def _result(message: dict[str, Any]) -> Saved:
    if "error" in message:
        raise SaveFailed(message["reason"], message["error"])
    manifest = Manifest.model_validate_json(json.dumps(message["manifest"]))
    info = CheckpointInfo(
        manifest.identity.cut, message["name"], manifest.incarnation, Path(message["path"])
    )
    return Saved(info, manifest, message["write_seconds"], message["fsync_seconds"])


def _say(tell: IO[str], message: dict[str, Any]) -> None:
    tell.write(json.dumps(message) + "\n")
    tell.flush()
